"""Which of several offspring to judge: a linear model of the losses so far, with how unsure it is of each.

Source: surrogate-assisted preselection (Jin 2011, "Surrogate-assisted evolutionary computation", Swarm and Evolutionary
Computation 1) by Bayesian linear regression (Bishop 2006, "Pattern Recognition and Machine Learning", section 3.3). The
model is of the logarithm of the loss, because small losses compound over depth; its features are one number a group:
what its sensitivity curve says, or width removed over width kept. Its slopes are near one common slope until the trials
say otherwise, so that it is of use after a handful of them, with far more groups than trials.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import History

Floats = NDArray[np.float64]
Features = Callable[[Mapping[str, int]], Floats]
"""`[group]` numbers of an allocation that fall as widths grow."""

SPREAD = 1.0
"""Standard deviation of a slope around the common one, as a share of it."""
NOISE = 0.1
"""Variance of what no slope explains, as a share of what the common slope leaves."""
DARING = 0.5
"""How many standard deviations below its expectation an offspring is taken to be."""
_LEAST = 1e-12


@dataclass(frozen=True)
class Linear:
    """A fitted model of differences to one allocation, that of least loss.

    Attributes:
        points: `[trial, group]` scaled differences of features.
        slopes: `[group]` expected.
        spread: prior standard deviation of each slope.
        weights: `[trial, trial]` inverse covariance of the trials.
    """

    points: Floats
    slopes: Floats
    spread: float
    weights: Floats

    def expected(self, differences: Floats) -> Floats:
        """`[n]` differences in log loss, for `[n, group]` scaled differences of features."""
        return np.asarray(differences @ self.slopes)

    def unsure(self, differences: Floats) -> Floats:
        """`[n]` standard deviations of what is expected."""
        cross = self.spread**2 * differences @ self.points.T
        variance = self.spread**2 * (differences**2).sum(axis=1) - ((cross @ self.weights) * cross).sum(axis=1)
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)))


def fit(points: Floats, rises: Floats, shares: Floats) -> Linear:
    """The posterior of a linear model without a constant.

    Args:
        points: `[trial, group]` scaled differences of features.
        rises: `[trial]` differences in log loss.
        shares: `[group]` what the common slope is multiplied by in each group, before any trial.
    """
    along = points @ shares
    common = max(0.0, float(along @ rises) / max(float(along @ along), _LEAST)) * shares
    spread = max(SPREAD * float(common.mean()), 1e-6)
    left = rises - points @ common
    noise = max(NOISE * float(left.var()), 1e-8)
    weights: Floats = np.linalg.inv(spread**2 * points @ points.T + noise * np.eye(len(points))).astype(np.float64)
    return Linear(points, common + spread**2 * points.T @ (weights @ left), spread, weights)


def removed_over_kept(problem: SearchProblem) -> Features:
    """How many structures a group loses for each that it keeps; one that goes whole is taken to keep half of one."""
    dense = np.array([group.width for group in problem.space.groups], dtype=np.float64)
    return lambda widths: dense / np.array([max(widths[name], 0.5) for name in problem.space.names]) - 1.0


def degradations(problem: SearchProblem) -> Features:
    """What the first sensitivity curves say of each group."""
    curves = next(iter(problem.curves.values()))
    tables = [(name, curves.curve(name, problem.objective)) for name in problem.space.names]
    return lambda widths: np.array([curve.at(widths[name]) for name, curve in tables], dtype=np.float64)


class Preselection:
    """Chooses by the curves, by the widths, and not at all (the first), in turn with the candidates' numbers.

    Two models err differently, and what neither would try keeps both honest. Without curves it has the widths alone.
    """

    def __init__(self, problem: SearchProblem) -> None:
        widths = removed_over_kept(problem)
        self._views: tuple[Features | None, ...] = (degradations(problem) if problem.curves else widths, widths, None)
        self._curved = bool(problem.curves)

    def __call__(self, history: History, parent: Allocation, offspring: Sequence[Allocation]) -> Allocation:
        turn = history.number % len(self._views)
        features = self._views[turn]
        trials = history.estimates()
        if features is None or len(trials) < 2:
            return offspring[0]
        losses = np.array([loss for _, loss in trials])
        measured = np.array([features(allocation) for allocation, _ in trials])
        scale = np.maximum(np.abs(measured).mean(axis=0), 1e-9)
        best = int(losses.argmin())
        # A curve already says how much worse a group makes it; of widths no group's share is known before.
        shares = scale / scale.mean() if turn == 0 and self._curved else np.ones(len(scale))
        model = fit((measured - measured[best]) / scale, _rises(losses, best), shares)
        differences = (np.array([features(each) for each in offspring]) - features(parent)) / scale
        return offspring[int(np.argmin(model.expected(differences) - DARING * model.unsure(differences)))]


def _rises(losses: Floats, best: int) -> Floats:
    """`[trial]` how much above the best: in logarithms, where all losses have one."""
    values = np.log(losses) if losses.min() > 0 else losses
    return np.asarray(values - values[best])
