"""What the trials so far say of allocations that were not judged; see `gaussian_process` for the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import Ints
from autoprune.core.trial import Trial
from autoprune.searchers.base.coordinates import Settings
from autoprune.searchers.base.gaussian_process import Floats, Points, Roughness, fit
from autoprune.searchers.base.history import Estimate, History
from autoprune.searchers.base.searcher import SearchProblem

Features = Callable[[Ints], Floats]
"""`[n, group]` numbers of widths that fall as these grow."""

MOST = 150
"""So many trials are modelled, as all of them would take long: the best, or those of about a wanted cost."""


def removed_over_kept(problem: SearchProblem) -> Features:
    """How many structures a group loses for each that it keeps; one that goes whole is taken to keep half of one."""
    dense = np.array([group.width for group in problem.space.groups], dtype=np.float64)
    return lambda widths: dense / np.maximum(widths, 0.5) - 1.0


def degradations(problem: SearchProblem) -> Features:
    """What the first sensitivity curves say of each group."""
    curves = next(iter(problem.curves.values()))
    tables = [curves.curve(g.name, problem.objective).at(np.arange(g.width + 1)) for g in problem.space.groups]
    begins = np.cumsum([0, *(len(table) for table in tables[:-1])])
    table = np.concatenate(tables)
    return lambda widths: table[begins + widths]


class Surrogate:
    """A model of a search's trials.

    Args:
        history: what was told; as much as is told later is modelled by the next `fitted`.
        factor: by how much settings multiply all values, so that values under different ones compare.
    """

    def __init__(self, history: History, factor: Callable[[Settings], float] = lambda _: 1.0) -> None:
        problem = history.problem
        self._history, self._factor, self._curved = history, factor, bool(problem.curves)
        self._features = degradations(problem) if problem.curves else removed_over_kept(problem)
        self._rough = Roughness()
        self._dense = np.array([group.width for group in problem.space.groups], dtype=np.float64)

    def fitted(
        self, reference: Trial | None = None, order: Callable[[Estimate], float] | None = None
    ) -> Callable[[Sequence[Allocation], float], Floats] | None:
        """What the model makes of allocations: `[n]` lower bounds of log losses, so many deviations below the means.

        Candidates that still run are taken to come out as expected. None while fewer than three trials have a value.

        Args:
            reference: the trial that allocations are compared with; None takes the best.
            order: where there are too many trials, those of which this is least are modelled; None takes their values.
        """
        estimates, reference = self._nearest(order), reference or self._history.best()
        if reference is None or len(estimates) < 3:
            return None
        allocations = [each.allocation for each in estimates]
        factors = np.array([self._factor(each.settings) for each in estimates])
        values = np.array([each.value for each in estimates]) / factors
        own = self._factor(reference.candidate.settings)
        base = self._history.value(reference.score) / own if reference.score else values[0]
        logarithmic = min(float(values.min()), base) > 0
        rises = np.log(values / base) if logarithmic else values - base
        errors = np.array([each.deviation for each in estimates]) / factors / (values if logarithmic else 1.0)
        origin, measured = self._raw([reference.candidate.allocation])[0], self._raw(allocations)[0]
        scale = np.maximum(np.abs(measured).mean(axis=0), 1e-9)
        # A curve already says how much worse a group makes it; of widths no group's share is known before.
        shares = scale / scale.mean() if self._curved else np.ones(len(scale))

        def points(wanted: Sequence[Allocation]) -> Points:
            features, widths = self._raw(wanted)
            return Points((features - origin) / scale, widths)

        posterior = fit(points(allocations), rises, errors**2, shares, self._rough)
        running = [each.allocation for each in self._history.asked if each.number not in self._history.told]
        if running:
            posterior = posterior.believing(points(running))

        def bound(wanted: Sequence[Allocation], daring: float) -> Floats:
            return posterior.below(points(wanted), daring)

        return bound

    def _nearest(self, order: Callable[[Estimate], float] | None) -> list[Estimate]:
        """The estimates to be modelled, at most `MOST`."""
        estimates = self._history.estimates()
        return estimates if len(estimates) <= MOST else sorted(estimates, key=order or attrgetter("value"))[:MOST]

    def _raw(self, allocations: Sequence[Allocation]) -> tuple[Floats, Floats]:
        """`[n, group]` features and logarithms of kept shares."""
        onto = self._history.problem.projection
        widths = np.array([onto.vector(each) for each in allocations])
        return self._features(widths), np.log(np.maximum(widths, 0.5) / self._dense)
