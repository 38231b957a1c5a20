"""A Gaussian process over allocations: what some of them say of others, and how unsure it is.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotrf, dtrtrs

from autoprune.core.costs import Floats

SPREADS = (0.3, 1.0)
"""Standard deviations of a slope around the common one, as shares of it."""
ROUGHNESS = ((0.0, 1.0), *product((0.3, 1.0), (0.1, 0.3, 1.0)))
"""Variances of the rough part, as shares of what the common slope leaves, with their length scales."""
NOISES = (0.003, 0.03, 0.2)
"""Variances of what neither part explains, as shares of what the common slope leaves."""
MANY = 150
"""From so many trials on, every second one says first which settings may be the likeliest."""
SHORTLIST = 10
"""So many of them are then compared on all trials; on 133 fits of `auto` the likeliest was among them each time, and on
52 of `nsga2` 48 times, the others' logarithms of the likelihood being at most 1.4 below."""
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
    def unique(self) -> tuple[Floats, NDArray[np.intp]]:
        """`[most, group]` unique widths of each group, filled up with its last, and `[n, group]` indices into them."""
        order = self.widths.argsort(axis=0)
        ordered = np.take_along_axis(self.widths, order, axis=0)
        number = np.zeros_like(order)
        number[1:] = (ordered[1:] != ordered[:-1]).cumsum(axis=0)
        found = np.repeat(ordered[-1:], number[-1].max() + 1, axis=0)
        np.put_along_axis(found, number, ordered, axis=0)
        index = np.empty_like(order)
        np.put_along_axis(index, order, number, axis=0)
        return found, index

    def __add__(self, other: Points) -> Points:
        return Points(np.vstack((self.slopes, other.slopes)), np.vstack((self.widths, other.widths)))


@dataclass(frozen=True)
class Kernel:
    """The covariance of two allocations.

    Attributes:
        slope: variance of a group's slope.
        rough: variance of the rough part.
        length: its length scale, in logarithms of width.
    """

    slope: float
    rough: float
    length: float

    def between(self, ones: Points, others: Points, matern: Floats | None = None) -> Floats:
        """Returns `[n, m]` covariances.

        Args:
            ones: `n` allocations.
            others: `m` allocations.
            matern: their `[n, m]` correlations, where they are known.
        """
        covariance = np.asarray(self.slope * ones.slopes @ others.slopes.T, dtype=np.float64)
        if not self.rough:
            return covariance
        return covariance + self.rough * (matern52(ones, others, self.length) if matern is None else matern)

    def variance(self, points: Points) -> Floats:
        """Returns `[n]` variances."""
        return np.asarray(self.slope * (points.slopes**2).sum(axis=1) + self.rough)


def matern52(ones: Points, others: Points, length: float) -> Floats:
    """Returns `[n, m]` Matérn 5/2 correlations of each group's width, their mean over the groups.

    A group has few different widths, so what two of them have to do with each other is computed once.

    Args:
        ones: `n` allocations.
        others: `m` allocations.
        length: the scale, in logarithms of width, over which values are alike.
    """
    (rows, row_of), (columns, column_of) = ones.unique, others.unique
    distance = np.sqrt(5.0) / length * np.abs(rows.T[:, :, None] - columns.T[:, None, :])
    tables = (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
    total: Floats = np.zeros((len(ones.widths), len(others.widths)))
    for table, row, column in zip(tables, row_of.T, column_of.T, strict=True):
        total += table.take(column, axis=1).take(row, axis=0)
    return np.asarray(total / ones.widths.shape[1])


class CorrelationCache:
    """The correlations of trials with each other under each length scale of `ROUGHNESS`.

    Those of the trials last asked for are kept, so that of most trials nothing is computed again when one is added.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._between: dict[float, Floats] = {}

    def of(self, points: Points) -> Mapping[float, Floats]:
        """Returns `[n, n]` correlations by length scale."""
        keys = [row.tobytes() for row in points.widths]
        new = np.array([place for place, key in enumerate(keys) if key not in self._known], dtype=np.intp)
        # Where a trial is new, any other's stand until its own are computed.
        before = np.array([self._known.get(key, 0) for key in keys], dtype=np.intp)
        fresh = Points(points.slopes[new], points.widths[new])
        found = {}
        for length in dict.fromkeys(length for _, length in ROUGHNESS):
            if len(new) < len(keys):
                between = self._between[length].take(before, axis=0).take(before, axis=1)
            else:
                between = np.empty((len(keys), len(keys)))
            if len(new):
                between[new] = matern52(fresh, points, length)
                between[:, new] = between[new].T
            found[length] = between
        self._known, self._between = {key: place for place, key in enumerate(keys)}, found
        return found


class Posterior:
    """The distribution of any allocation's value after some trials, as a difference to the reference.

    Args:
        kernel: covariance of any two allocations.
        common: `[group]` slopes before any trial.
        points: the trials.
        values: `[trial]` differences to the reference.
        noise: `[trial]` variances.
        matern: `[trial, trial]` correlations under the kernel's length scale, where they are known.

    Attributes:
        root: `[trial, trial]` lower Cholesky factor of the covariance of the trials.
        weights: `[trial]`.
    """

    def __init__(
        self,
        kernel: Kernel,
        common: Floats,
        points: Points,
        values: Floats,
        noise: Floats,
        matern: Floats | None = None,
    ) -> None:
        self.kernel, self.common, self.points, self.noise = kernel, common, points, noise
        self.root = _root(kernel.between(points, points, matern) + np.diag(noise))
        self.weights: Floats = cho_solve((self.root, True), values - points.slopes @ common)

    def moments(self, points: Points) -> tuple[Floats, Floats]:
        """Returns `[n]` means and `[n]` standard deviations."""
        cross = self.kernel.between(points, self.points)
        whitened = solve_triangular(self.root, cross.T, lower=True, check_finite=False)
        deviations = np.sqrt(np.maximum(self.kernel.variance(points) - (whitened**2).sum(axis=0), 0.0))
        return np.asarray(points.slopes @ self.common + cross @ self.weights), np.asarray(deviations)

    def lower_bound(self, points: Points, deviations: float) -> Floats:
        """Returns `[n]` values so many standard deviations below the means."""
        mean, deviation = self.moments(points)
        return mean - deviations * deviation

    def believing(self, points: Points) -> Posterior:
        """Conditions on trials at these points that came out at their means, which lowers the deviations around them.

        Source: the kriging believer of Ginsbourger, Le Riche and Carraro 2010.
        """
        values = np.append(self.moments(self.points)[0], self.moments(points)[0])
        # What it expects at its own points is smoothed; the values that were told are restored from the weights.
        values[: len(self.weights)] += self.noise * self.weights
        noise = np.append(self.noise, np.full(len(points.widths), self.noise.min()))
        return Posterior(self.kernel, self.common, self.points + points, values, noise)


def _root(covariance: Floats) -> Floats:
    """Returns the lower Cholesky factor of a covariance, after more noise where it is nearly singular."""
    scale = float(covariance.diagonal().mean())
    for more in (0.0, 1e-12, 1e-10, 1e-8):
        try:
            return np.asarray(cholesky(covariance + more * scale * np.eye(len(covariance)), lower=True))
        except np.linalg.LinAlgError:
            pass
    return np.asarray(cholesky(covariance + 1e-6 * scale * np.eye(len(covariance)), lower=True))


def fit(
    points: Points,
    rises: Floats,
    errors: Floats,
    shares: Floats,
    correlations: CorrelationCache | None = None,
) -> Posterior:
    """Returns the posterior under the kernel and the noise of greatest likelihood.

    Args:
        points: the trials.
        rises: `[trial]` differences in log loss to the reference.
        errors: `[trial]` variances that are known beforehand.
        shares: `[group]` what the common slope is multiplied by in each group, before any trial.
        correlations: those computed for earlier fits.
    """
    along = points.slopes @ shares
    common = max(0.0, float(along @ rises) / max(float(along @ along), _LEAST)) * shares
    left = rises - points.slopes @ common
    variance, slope = max(float(left.var()), _LEAST), max(float(common.mean()), 1e-6)
    matern = (correlations or CorrelationCache()).of(points)
    settings = list(product(SPREADS, ROUGHNESS, NOISES))
    noises = np.array([noise * variance for *_, noise in settings])[:, None] + errors
    linear = points.slopes @ points.slopes.T
    scaled = {spread: (spread * slope) ** 2 * linear for spread in SPREADS}
    rough = {(share, length): share * variance * matern[length] for share, length in ROUGHNESS}

    def loss(at: int, some: slice = slice(None)) -> float:
        spread, roughness, _ = settings[at]
        covariance = scaled[spread][some, some] + rough[roughness][some, some]
        np.fill_diagonal(covariance, covariance.diagonal() + noises[at, some])
        return _negative_log_likelihood(covariance, left[some])

    tried: Sequence[int] = range(len(settings))
    if len(rises) >= MANY:
        halved = {at: loss(at, slice(None, None, 2)) for at in tried}
        tried = sorted(sorted(tried, key=halved.__getitem__)[:SHORTLIST])
    best = min(tried, key=loss)
    spread, (share, length), _ = settings[best]
    kernel = Kernel((spread * slope) ** 2, share * variance, length)
    return Posterior(kernel, common, points, rises, noises[best], matern[length])


def _negative_log_likelihood(covariance: Floats, values: Floats) -> float:
    """Returns minus twice the logarithm of the likelihood of `[trial]` values, but for a constant.

    Args:
        covariance: `[trial, trial]`, with the noise.
    """
    # LAPACK itself, as this is done for each of `settings` in each fit.
    root, info = dpotrf(covariance.T, lower=1, clean=0)
    if info:  # nearly singular
        volume, misfit = np.linalg.slogdet(covariance)[1], float(values @ np.linalg.solve(covariance, values))
        return float(volume) + misfit
    whitened, _ = dtrtrs(root, values, lower=1)
    return float(2.0 * np.log(root.diagonal()).sum() + whitened @ whitened)
