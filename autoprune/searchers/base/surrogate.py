"""A model of what trials so far say of other allocations, and a search in it; see `gaussian_process`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import Floats, Ints
from autoprune.core.trial import Trial
from autoprune.searchers.base.coordinates import Settings
from autoprune.searchers.base.gaussian_process import CorrelationCache, Points, fit
from autoprune.searchers.base.history import Estimate, History
from autoprune.searchers.base.moves import REACH, mutants
from autoprune.searchers.base.searcher import SearchProblem

Features = Callable[[Ints], Floats]
"""`[n, group]` numbers of widths that fall as these grow."""

MOST = 150
"""So many trials are modelled, as all of them would take long: the best, or those of about a wanted cost."""
ROUNDS = 8
MUTANTS = 24
"""How many mutants a round looks at."""
DEVIATIONS = 1.0
"""How many standard deviations below its mean an allocation's lower bound is."""

BRANCH = 3.0
"""The ratio of removed to kept structures of a group whose branch is removed: as of one that keeps a quarter."""

LowerBound = Callable[[Sequence[Allocation], float], Floats]
"""Of `n` allocations `[n]` values, so many standard deviations below the means."""


def removed_over_kept(problem: SearchProblem) -> Features:
    """Returns the ratios of removed to kept structures; one that goes whole is taken to keep half of its narrowest.

    Where a branch is removed with it, it is `BRANCH`: how bad that is is not known before it was tried.
    """
    dense = np.array([group.width for group in problem.space.groups], dtype=np.float64)
    least, removable = least_kept(problem), np.array([bounds.removable for bounds in problem.projection.bounds])
    return lambda widths: np.where(removable & (widths == 0), BRANCH, dense / np.maximum(widths, least) - 1.0)


def least_kept(problem: SearchProblem) -> Floats:
    """Returns `[group]` half of the narrowest widths but 0, which 0 is taken for where numbers above it are needed."""
    return np.asarray(np.maximum(problem.projection.lowest, 1) / 2)


def degradations(problem: SearchProblem) -> Features:
    """Returns the degradations of the first sensitivity curves."""
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
        self._correlations = CorrelationCache()
        self._vectors: dict[Allocation, Ints] = {}
        self._least = least_kept(problem)
        self._dense = np.array([group.width for group in problem.space.groups], dtype=np.float64)

    def fitted(
        self, reference: Trial | None = None, order: Callable[[Estimate], float] | None = None
    ) -> LowerBound | None:
        """Fits the model and returns its lower bounds of log losses.

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
        origin = self._raw([reference.candidate.allocation])[0]
        measured, widths = self._raw(allocations, keep=True)
        scale = np.maximum(np.abs(measured).mean(axis=0), 1e-9)
        # A curve already says how much worse a group makes it; of widths no group's share is known before.
        shares = scale / scale.mean() if self._curved else np.ones(len(scale))

        def points(wanted: Sequence[Allocation]) -> Points:
            features, widths = self._raw(wanted)
            return Points((features - origin) / scale, widths)

        trials = Points((measured - origin) / scale, widths)
        posterior = fit(trials, rises, errors**2, shares, self._correlations)
        running = [each.allocation for each in self._history.running.values()]
        if running:
            posterior = posterior.believing(points(running))

        def bound(wanted: Sequence[Allocation], deviations: float) -> Floats:
            return posterior.lower_bound(points(wanted), deviations)

        return bound

    def _nearest(self, order: Callable[[Estimate], float] | None) -> list[Estimate]:
        """Returns the estimates to be modelled, at most `MOST`."""
        if order is None:
            return self._history.estimates(MOST)
        estimates = self._history.estimates()
        return estimates if len(estimates) <= MOST else sorted(estimates, key=order)[:MOST]

    def _raw(self, allocations: Sequence[Allocation], keep: bool = False) -> tuple[Floats, Floats]:
        """Returns `[n, group]` features and logarithms of kept shares; trials' widths are kept for the next model."""
        onto = self._history.problem.projection
        vector = onto.vector
        if keep:
            self._vectors.update({each: vector(each) for each in allocations if each not in self._vectors})
        widths = np.array([self._vectors[each] if keep else vector(each) for each in allocations])
        if onto.branches is not None:  # what the removal of a branch does is said of its lead alone
            widths = np.where(onto.branches.followers_gone(widths), self._dense.astype(np.int64), widths)
        return self._features(widths), np.log(np.maximum(widths, self._least) / self._dense)


def climb(
    problem: SearchProblem, parent: Allocation, bound: LowerBound | None, rng: np.random.Generator
) -> list[Allocation]:
    """Searches within a model, where a look costs next to nothing.

    Each round draws how far its trades may reach and continues from the allocation of least bound so far.

    Args:
        problem: whose limits hold.
        parent: where the search begins.
        bound: of the model; None leaves mutants in the order in which they are made.
        rng: of the mutations.

    Returns:
        The mutants met, those of least bound first.
    """
    found: dict[Allocation, float] = {}
    for _ in range(ROUNDS):
        reach = float(np.exp(rng.uniform(*np.log(REACH[::2]))))
        offspring = list(dict.fromkeys(mutants(problem, parent, rng, reach, MUTANTS)))
        bounds = np.zeros(len(offspring)) if bound is None else bound(offspring, DEVIATIONS)
        # Rounded, so that a resumed run on another machine finds the same.
        found.update(zip(offspring, np.round(bounds, 9).tolist(), strict=True))
        parent = min(found, key=found.__getitem__)
    return sorted(found, key=found.__getitem__)
