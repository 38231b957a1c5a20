"""What the trials so far say of allocations that were not judged: a Gaussian process, and how unsure it is.

Source: additive Gaussian processes (Duvenaud, Nickisch and Rasmussen 2011, NeurIPS 24) on top of Bayesian linear
regression (Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", sections 2.1 and 2.7).

The model is of the logarithm of the loss, because small losses compound over depth, and has two parts.

- A slope for each group along what its sensitivity curve says (without curves: along width removed over width kept).
  Slopes are near one common slope until the trials say otherwise, so it is of use after a handful of them.
- A rough function of each group's width alone, Matérn 5/2 in its logarithm, all added up. Which structure is the next
  to go is a matter of luck, so neighbouring widths of one group differ by more than any smooth curve says, and they do
  so whatever the other groups are. On the trials of searches on ResNet-20 this explained more than one function of all
  widths at once (the logarithm of the likelihood rose by about 40 for 179 and for 300 trials), which learns nothing of
  a width from other combinations.

How large either part is, how rough, and how much noise is left follow from the greatest likelihood on a small grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from autoprune.core.allocation import Allocation
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import Estimate, History
from autoprune.searchers.points import Settings

Floats = NDArray[np.float64]
Features = Callable[[Mapping[str, int]], Floats]
"""`[group]` numbers of an allocation that fall as widths grow."""

MOST = 150
"""So many trials are modelled: the best, as only what is near them matters, and all of them would take long."""
SPREADS = (0.3, 1.0)
"""Standard deviations of a slope around the common one, as shares of it."""
ROUGHNESS = ((0.0, 1.0), *product((0.3, 1.0), (0.1, 0.3, 1.0)))
"""Variances of the rough part, as shares of what the common slope leaves, with their length scales."""
NOISES = (0.003, 0.03, 0.2)
"""Variances of what neither part explains, as shares of what the common slope leaves."""
_LEAST = 1e-10


@dataclass(frozen=True)
class Points:
    """Allocations as the model sees them.

    Attributes:
        slopes: `[n, group]` features, as differences to the reference and in units of their scale.
        widths: `[n, group]` logarithms of the share of the width that is kept.
    """

    slopes: Floats
    widths: Floats

    @cached_property
    def different(self) -> Sequence[tuple[Floats, NDArray[np.intp]]]:
        """Of each group: its different widths, and which of them each allocation has."""
        return [_different(column) for column in self.widths.T]

    def __add__(self, other: Points) -> Points:
        return Points(np.vstack((self.slopes, other.slopes)), np.vstack((self.widths, other.widths)))


@dataclass(frozen=True)
class Kernel:
    """How alike the model takes two allocations to be.

    Attributes:
        slope: variance of a group's slope.
        rough: variance of the rough part.
        length: its length scale, in logarithms of width.
    """

    slope: float
    rough: float
    length: float

    def between(self, ones: Points, others: Points) -> Floats:
        """`[n, m]` covariances."""
        alike = self.slope * ones.slopes @ others.slopes.T
        rough = self.rough * roughness(ones, others, self.length) if self.rough else 0.0
        return np.asarray(alike + rough, dtype=np.float64)

    def itself(self, points: Points) -> Floats:
        """`[n]` variances."""
        return np.asarray(self.slope * (points.slopes**2).sum(axis=1) + self.rough)


def roughness(ones: Points, others: Points, length: float) -> Floats:
    """`[n, m]` Matérn 5/2 correlations of each group's width, their mean over the groups.

    A group has few different widths, so what two of them have to do with each other is computed once.
    """
    total: Floats = np.zeros((len(ones.widths), len(others.widths)))
    for (mine, my), (theirs, their) in zip(ones.different, others.different, strict=True):
        apart = np.sqrt(5.0) / length * np.abs(mine[:, None] - theirs[None, :])
        alike = (1.0 + apart + apart**2 / 3.0) * np.exp(-apart)
        total += alike.take(their, axis=1).take(my, axis=0)
    return np.asarray(total / ones.widths.shape[1])


def _different(values: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The different ones of some values, and where in these each of them is."""
    places: dict[float, int] = {}
    where = [places.setdefault(value, len(places)) for value in values.tolist()]
    return np.array(list(places)), np.array(where)


@dataclass(frozen=True)
class Posterior:
    """What is expected of any allocation after some trials, as differences to the reference.

    Attributes:
        common: `[group]` slopes before any trial.
        points: the trials.
        weights: `[trial]`.
        precision: `[trial, trial]` inverse covariance of the trials.
        noise: `[trial]` variances.
    """

    kernel: Kernel
    common: Floats
    points: Points
    weights: Floats
    precision: Floats
    noise: Floats

    @classmethod
    def of(cls, kernel: Kernel, common: Floats, points: Points, values: Floats, noise: Floats) -> Posterior:
        """After trials with these values: `[trial]`, as are their variances of noise."""
        precision = np.linalg.inv(kernel.between(points, points) + np.diag(noise)).astype(np.float64)
        return cls(kernel, common, points, precision @ (values - points.slopes @ common), precision, noise)

    def expected(self, points: Points) -> Floats:
        """`[n]` means."""
        return self._expected(points, self.kernel.between(points, self.points))

    def unsure(self, points: Points) -> Floats:
        """`[n]` standard deviations."""
        return self._unsure(points, self.kernel.between(points, self.points))

    def below(self, points: Points, daring: float) -> Floats:
        """`[n]` values so many standard deviations below the means."""
        cross = self.kernel.between(points, self.points)
        return self._expected(points, cross) - daring * self._unsure(points, cross)

    def _expected(self, points: Points, cross: Floats) -> Floats:
        return np.asarray(points.slopes @ self.common + cross @ self.weights)

    def _unsure(self, points: Points, cross: Floats) -> Floats:
        variance = self.kernel.itself(points) - ((cross @ self.precision) * cross).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))

    def believing(self, points: Points) -> Posterior:
        """As if trials at these points had come out as expected, so that it is less unsure around them.

        Source: the kriging believer of Ginsbourger, Le Riche and Carraro 2010.
        """
        values = np.append(self.expected(self.points), self.expected(points))
        # What it expects at its own points is smoothed; the values that were told are restored from the weights.
        values[: len(self.weights)] += self.noise * self.weights
        noise = np.append(self.noise, np.full(len(points.widths), self.noise.min()))
        return Posterior.of(self.kernel, self.common, self.points + points, values, noise)


def fit(points: Points, rises: Floats, errors: Floats, shares: Floats) -> Posterior:
    """The posterior under the kernel and the noise of greatest likelihood.

    Args:
        rises: `[trial]` differences in log loss to the reference.
        errors: `[trial]` variances that are known beforehand.
        shares: `[group]` what the common slope is multiplied by in each group, before any trial.
    """
    along = points.slopes @ shares
    common = max(0.0, float(along @ rises) / max(float(along @ along), _LEAST)) * shares
    left = rises - points.slopes @ common
    variance, slope = max(float(left.var()), _LEAST), max(float(common.mean()), 1e-6)
    alike = points.slopes @ points.slopes.T
    rough = {length: roughness(points, points, length) for _, length in ROUGHNESS}
    settings = list(product(SPREADS, ROUGHNESS, NOISES))
    noises = np.array([noise * variance for *_, noise in settings])[:, None] + errors
    unlikely = [
        _unlikeliness((spread * slope) ** 2 * alike + share * variance * rough[length], noise, left)
        for (spread, (share, length), _), noise in zip(settings, noises, strict=True)
    ]
    best = int(np.argmin(unlikely))
    spread, (share, length), _ = settings[best]
    kernel = Kernel((spread * slope) ** 2, share * variance, length)
    return Posterior.of(kernel, common, points, rises, noises[best])


def _unlikeliness(covariance: Floats, noise: Floats, values: Floats) -> float:
    """Minus twice the logarithm of the likelihood of `[trial]` values, but for a constant.

    Args:
        covariance: `[trial, trial]`, without the noise, which is added to it.
        noise: `[trial]` variances.
    """
    covariance[np.diag_indices_from(covariance)] += noise
    try:
        root = cholesky(covariance, lower=True, check_finite=False)
    except np.linalg.LinAlgError:  # nearly singular
        volume, misfit = np.linalg.slogdet(covariance)[1], float(values @ np.linalg.solve(covariance, values))
        return float(volume) + misfit
    whitened = solve_triangular(root, values, lower=True, check_finite=False)
    return float(2.0 * np.log(np.diag(root)).sum() + whitened @ whitened)


def removed_over_kept(problem: SearchProblem) -> Features:
    """How many structures a group loses for each that it keeps; one that goes whole is taken to keep half of one."""
    dense = np.array([group.width for group in problem.space.groups], dtype=np.float64)
    return lambda widths: dense / np.array([max(widths[name], 0.5) for name in problem.space.names]) - 1.0


def degradations(problem: SearchProblem) -> Features:
    """What the first sensitivity curves say of each group."""
    curves = next(iter(problem.curves.values()))
    tables = [
        (group.name, curves.curve(group.name, problem.objective).at(np.arange(group.width + 1)).tolist())
        for group in problem.space.groups
    ]
    return lambda widths: np.array([table[widths[name]] for name, table in tables], dtype=np.float64)


class Surrogate:
    """A model of a search's trials.

    Args:
        history: what was told; as much as is told later is modelled by the next `fitted`.
        order: numbers of estimates, of which those with the least are modelled; None takes their values.
        factor: by how much settings multiply all values, so that values under different ones compare.
    """

    def __init__(
        self,
        history: History,
        order: Callable[[Sequence[Estimate]], Floats] | None = None,
        factor: Callable[[Settings], float] = lambda _: 1.0,
    ) -> None:
        problem = history.problem
        self._history, self._order, self._factor, self._curved = history, order, factor, bool(problem.curves)
        self._features = degradations(problem) if problem.curves else removed_over_kept(problem)
        self._names = problem.space.names
        self._dense = np.array([group.width for group in problem.space.groups], dtype=np.float64)
        self._seen: dict[Allocation, tuple[Floats, Floats]] = {}

    def fitted(self) -> Callable[[Sequence[Allocation], float], Floats] | None:
        """What the model makes of allocations: `[n]` lower bounds of log losses, so many deviations below the means.

        Candidates that still run are taken to come out as expected. None while fewer than three trials have a value.
        """
        estimates, best = self._nearest(), self._history.best()
        if best is None or len(estimates) < 3:
            return None
        allocations = [each.allocation for each in estimates]
        factors = np.array([self._factor(each.settings) for each in estimates])
        values = np.array([each.value for each in estimates]) / factors
        own = self._factor(best.candidate.settings)
        reference = self._history.value(best.score) / own if best.score else values[0]
        logarithmic = min(float(values.min()), reference) > 0
        rises = np.log(values / reference) if logarithmic else values - reference
        errors = np.array([each.deviation for each in estimates]) / factors / (values if logarithmic else 1.0)
        origin, measured = self._raw([best.candidate.allocation])[0], self._raw(allocations)[0]
        scale = np.maximum(np.abs(measured).mean(axis=0), 1e-9)
        # A curve already says how much worse a group makes it; of widths no group's share is known before.
        shares = scale / scale.mean() if self._curved else np.ones(len(scale))

        def points(wanted: Sequence[Allocation]) -> Points:
            features, widths = self._raw(wanted)
            return Points((features - origin) / scale, widths)

        posterior = fit(points(allocations), rises, errors**2, shares)
        running = [each.allocation for each in self._history.asked if each.number not in self._history.told]
        if running:
            posterior = posterior.believing(points(running))

        def bound(wanted: Sequence[Allocation], daring: float) -> Floats:
            return posterior.below(points(wanted), daring)

        return bound

    def _nearest(self) -> list[Estimate]:
        """The estimates to be modelled, at most `MOST`."""
        estimates = self._history.estimates()
        if len(estimates) <= MOST:
            return estimates
        values = np.array([each.value for each in estimates]) if self._order is None else self._order(estimates)
        return [estimates[i] for i in np.argsort(values, kind="stable")[:MOST]]

    def _raw(self, allocations: Sequence[Allocation]) -> tuple[Floats, Floats]:
        """`[n, group]` features and logarithms of kept shares."""
        for each in allocations:
            if each not in self._seen:
                kept = np.array([max(each[name], 0.5) for name in self._names]) / self._dense
                self._seen[each] = (self._features(each), np.log(kept))
        features, widths = zip(*(self._seen[each] for each in allocations), strict=True)
        return np.array(features), np.array(widths)
