"""The optimum of the additive model: the least sum of the groups' degradations that the limits allow.

Source: a multiple-choice knapsack by Lagrange multipliers (Everett 1963, "Generalized Lagrange Multiplier Method",
Operations Research 11); for pruning, HALP (Shen et al. 2021, arXiv:2110.10811) packs neurons by saliency and latency.
Here whole groups are packed by their measured curves. Costs are bilinear in neighbouring widths, so they are linearised
at the current widths, solved, and linearised anew; every solution met on the way is repaired against the exact table,
the best is improved by exchanges, and what is left is filled. Several limits take one multiplier each. An exponent
bends the curves: above 1 it spares the groups that would lose much, below 1 it prefers few losers.
"""

from __future__ import annotations

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.budget import COST_KINDS
from autoprune.core.costs import Bools, CostsAt, Floats, Ints
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.searchers.base.searcher import SearchProblem, measured_curves
from autoprune.searchers.base.sequential import FixedListSearcher
from autoprune.searchers.controls import uniform_allocation
from autoprune.searchers.threshold import level_losses, threshold_allocation

EXPONENTS = (1.0, 2.0, 0.5)
_LINEARISATIONS = 6
_BISECTIONS = 14
_REWEIGHTINGS = 12
EXCHANGES = 300

Choice = Ints
"""`[group]` indices of levels."""


class AdditiveModel:
    """Levels, losses and costs of one problem as arrays; rows are groups, padded to the most levels.

    Args:
        exponent: of the degradations, each divided by the greatest.
    """

    def __init__(self, problem: SearchProblem, curves: SensitivityCurves, exponent: float = 1.0) -> None:
        self.names, self._onto = problem.space.names, problem.projection
        self.kinds = [COST_KINDS.index(kind) for kind in problem.limits]
        self.limits = self._onto.limits[self.kinds].astype(np.float64)
        tables = level_losses(problem, curves)
        self.count = np.array([len(tables[name][0]) for name in self.names])
        shape = (len(self.names), int(self.count.max()))
        self.widths, self.losses = np.zeros(shape, dtype=np.int64), np.full(shape, np.inf)
        greatest = max(float(worse.max()) for _, worse in tables.values()) or 1.0
        for row, name in enumerate(self.names):
            levels, worse = tables[name]
            self.widths[row, : len(levels)] = levels
            self.losses[row, : len(levels)] = (worse / greatest) ** exponent
        self._rows = np.arange(len(self.names))

    def allocation(self, choice: Choice) -> Allocation:
        """Returns the widths at `[group]` levels."""
        return Allocation(dict(zip(self.names, self.widths[self._rows, choice].tolist(), strict=True)))

    def loss(self, choice: Choice) -> float:
        """Returns the sum of the losses at `[group]` levels."""
        return float(self.losses[self._rows, choice].sum())

    def spent(self, choice: Choice) -> Floats:
        """Returns `[limit]` exact costs as shares of their limits; above 1 is too much."""
        return np.asarray(self._costs(choice).spent[self.kinds] / self.limits)

    def fits(self, choice: Choice) -> bool:
        """Returns whether the exact costs keep every limit."""
        return bool((self.spent(choice) <= 1.0).all())

    def slopes(self, choice: Choice) -> Floats:
        """Returns `[limit, group]`: what one more structure costs at these widths, as shares of the limits."""
        slopes = self._costs(choice).slopes[self.kinds]
        return np.asarray(slopes[:, self._onto.columns] / self.limits[:, None])

    def _costs(self, choice: Choice) -> CostsAt:
        return self._onto.costs_at(self.widths[self._rows, choice])

    def cheapest(self, prices: Floats) -> Choice:
        """Returns the level of least loss plus price times width for `[group]` prices; ties go to the narrower."""
        return np.asarray(np.argmin(self.losses + prices[:, None] * self.widths, axis=1))

    def narrowings(self, choice: Choice, weights: Floats) -> list[tuple[int, int]]:
        """Returns (group, narrower level), each that of least loss added per cost saved, the best group first.

        Args:
            choice: the levels now.
            weights: `[limit]` of the costs.
        """
        rate = self._rates(choice, weights @ self.slopes(choice), np.arange(self.losses.shape[1]) < choice[:, None])
        return self._in_order(np.where(np.isnan(rate), np.inf, rate))

    def widenings(self, choice: Choice, weights: Floats) -> list[tuple[int, int]]:
        """Returns (group, wider level), each that of most loss saved per cost, the best group first.

        Only those that save loss and whose linearised costs fit: costs are sums of products of widths, so what
        widening really costs is never less.

        Args:
            choice: the levels now.
            weights: `[limit]` of the costs.
        """
        slopes, left = self.slopes(choice), 1.0 - self.spent(choice) + 1e-12
        more = self.widths - self.widths[self._rows, choice][:, None]
        slack = np.divide(left[:, None], slopes, out=np.full(slopes.shape, np.inf), where=slopes > 0).min(axis=0)
        columns = np.arange(self.losses.shape[1])
        open_ = (columns > choice[:, None]) & (columns < self.count[:, None]) & (more <= slack[:, None])
        rate = self._rates(choice, weights @ slopes, open_)
        return self._in_order(np.where(rate > 0, -rate, np.inf))

    def _rates(self, choice: Choice, prices: Floats, open_: Bools) -> Floats:
        """Returns `[group, level]` loss saved per cost of going to a level, NaN where it is not open."""
        saved = self.losses[self._rows, choice][:, None] - np.where(open_, self.losses, 0.0)
        cost = np.maximum(prices, 1e-15)[:, None] * (self.widths - self.widths[self._rows, choice][:, None])
        return np.asarray(np.divide(saved, cost, out=np.full(cost.shape, np.nan), where=open_))

    def _in_order(self, score: Floats) -> list[tuple[int, int]]:
        """Returns (group, its level of least score) by score, ties by group; infinite scores are left out."""
        levels = score.argmin(axis=1)
        least = score[self._rows, levels]
        order = np.argsort(least, kind="stable")[: int(np.isfinite(least).sum())]
        return [(int(group), int(levels[group])) for group in order]


def knapsack_allocation(
    problem: SearchProblem, curves: SensitivityCurves, exponent: float = 1.0, exchanges: int = EXCHANGES
) -> Allocation:
    """Returns the least sum of degradations to a power within the limits, with what is left filled.

    Args:
        problem: whose limits hold.
        curves: of one criterion, with every group of the space.
        exponent: the power, above 0.
        exchanges: at most how many exchanges are tried; they take most of the time.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    model = AdditiveModel(problem, curves, exponent)
    weights = np.full(len(model.kinds), 1.0 / len(model.kinds))
    best, best_weights = _settle(model, weights), weights
    for _ in range(_REWEIGHTINGS if len(model.kinds) > 1 else 0):
        weights = weights * np.exp(2.0 * (model.spent(best) - 1.0) / max(float(np.ptp(model.spent(best))), 1e-9))
        weights /= weights.sum()
        choice = _settle(model, weights)
        if model.loss(choice) < model.loss(best):
            best, best_weights = choice, weights
    return problem.project(model.allocation(_exchange(model, best, best_weights, exchanges)))


def _settle(model: AdditiveModel, weights: Floats) -> Choice:
    """Returns the best choice that fits among those of a few rounds, each with costs linearised at the one before."""
    current = model.count - 1
    found: list[Choice] = []
    for _ in range(_LINEARISATIONS):
        choice = _least_multiplier(model, weights @ model.slopes(current))
        found.append(_fill(model, _repair(model, choice, weights), weights))
        if (found[-1] == current).all():
            break
        current = found[-1]
    return min(found, key=model.loss)


def _least_multiplier(model: AdditiveModel, slopes: Floats) -> Choice:
    """Returns the choice under the least multiplier whose exact costs fit, or of the greatest tried."""
    low, high = -12.0, 12.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if model.fits(model.cheapest(10.0**middle * slopes)) else (middle, high)
    return model.cheapest(10.0**high * slopes)


def _repair(model: AdditiveModel, choice: Choice, weights: Floats) -> Choice:
    """Returns `choice` narrowed where that adds the least loss per cost saved, until it fits."""
    choice = choice.copy()
    while not model.fits(choice):
        group, level = model.narrowings(choice, weights)[0]
        choice[group] = level
    return choice


def _fill(model: AdditiveModel, choice: Choice, weights: Floats, barred: int = -1) -> Choice:
    """Returns `choice` with all but the barred group widened as long as that helps and fits.

    What saves most loss per cost comes first.
    """
    while (wider := _widened(model, choice, weights, barred)) is not None:
        choice = wider
    return choice


def _widened(model: AdditiveModel, choice: Choice, weights: Floats, barred: int) -> Choice | None:
    for group, level in model.widenings(choice, weights):
        wider = choice.copy()
        wider[group] = level
        if group != barred and model.fits(wider):  # it may not where a layer reads and writes the same group
            return wider
    return None


def _exchange(model: AdditiveModel, choice: Choice, weights: Floats, most: int) -> Choice:
    """Returns `choice` after narrowing one group and filling with others, repeated as long as the loss falls."""
    tries, improved = 0, True
    while improved and tries < most:
        improved = False
        for group, level in _short_narrowings(model, choice):
            tries += 1
            moved = choice.copy()
            moved[group] = level
            moved = _fill(model, _fill(model, moved, weights, barred=group), weights)
            if model.loss(moved) < model.loss(choice) - 1e-12:
                choice, improved = moved, True
                break
            if tries >= most:
                break
    return choice


def _short_narrowings(model: AdditiveModel, choice: Choice) -> list[tuple[int, int]]:
    """Returns (group, level) of one to three levels narrower, those that lose least first."""
    moves = [(g, int(choice[g]) - by) for g in range(len(choice)) for by in (1, 2, 3) if choice[g] >= by]
    return sorted(moves, key=lambda move: model.losses[move] - model.losses[move[0], choice[move[0]]])


class Knapsack(FixedListSearcher):
    """Proposes the knapsack of each criterion's curves under each exponent, those that differ."""

    uses_curves = True
    needs_curves = True

    def _list(self, problem: SearchProblem) -> list[Allocation]:
        curves = measured_curves(problem, "knapsack")
        return [knapsack_allocation(problem, each, power) for each in curves for power in EXPONENTS]


def standard_starts(problem: SearchProblem) -> tuple[Allocation, ...]:
    """Returns uniform and, for each criterion's curves, threshold and the knapsacks; those that differ."""
    found = [uniform_allocation(problem)]
    for curves in problem.curves.values():
        found.append(threshold_allocation(problem, curves))
        found.extend(knapsack_allocation(problem, curves, exponent) for exponent in EXPONENTS)
    return tuple(dict.fromkeys(found))
