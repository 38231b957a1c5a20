"""The optimum of the additive model: the least sum of the groups' degradations that the limits allow.

Source: a multiple-choice knapsack by Lagrange multipliers (Everett 1963, "Generalized Lagrange Multiplier Method",
Operations Research 11); for pruning, HALP (Shen et al. 2021, arXiv:2110.10811) packs neurons by saliency and latency.
Here whole groups are packed by their measured curves. Costs are bilinear in neighbouring widths, so they are linearised
at the current widths, solved, and linearised anew; every solution met on the way is repaired against the exact table,
the best is improved by exchanges, and what is left is filled. Several limits take one multiplier each. An exponent
bends the curves: above 1 it spares the groups that would lose much, below 1 it prefers few losers.

Where branches may be removed, 0 is one more level of the group that leads a branch, with the loss that the sweep found
there. What is compared with it are the losses of all groups in the branch, each at its best level under the multiplier,
and what they cost together; linearised costs count twice what two of them share, so their sum is scaled to what the
removal really saves.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    Attributes:
        leads: indices of the groups at whose level 0 a branch is removed.
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
        branches = self._onto.branches
        self.leads = np.array([], dtype=np.int64) if branches is None else branches.leads
        self._members = np.zeros((0, len(self.names))) if branches is None else branches.membership.astype(np.float64)

    def allocation(self, choice: Choice) -> Allocation:
        """Returns the widths at `[group]` levels."""
        return Allocation(dict(zip(self.names, self._widths(choice).tolist(), strict=True)))

    def _widths(self, choice: Choice) -> Ints:
        """Returns `[…, group]` widths at levels; groups of a branch that is gone are at 0, whatever their level."""
        widths = self.widths[self._rows, choice]
        return widths if self._onto.branches is None else self._onto.branches.emptied(widths)

    def loss(self, choice: Choice) -> float:
        """Returns the sum of the losses at `[group]` levels."""
        return float(self._losses(choice).sum())

    def _losses(self, choice: Choice) -> Floats:
        """Returns `[group]` losses; that of a branch that is gone is its lead's."""
        losses = self.losses[self._rows, choice]
        if self._onto.branches is None:
            return losses
        return np.where(self._onto.branches.followers_gone(self._widths(choice)), 0.0, losses)

    def loss_after(self, choice: Choice, group: int, level: int) -> float:
        """Returns by how much the loss is greater with one group at another level."""
        if not len(self.leads):
            return float(self.losses[group, level] - self.losses[group, choice[group]])
        moved = choice.copy()
        moved[group] = level
        return self.loss(moved) - self.loss(choice)

    def spent(self, choice: Choice) -> Floats:
        """Returns `[limit]` exact costs as shares of their limits; above 1 is too much."""
        return np.asarray(self._costs(choice).spent[self.kinds] / self.limits)

    def fits(self, choice: Choice) -> bool:
        """Returns whether the exact costs keep every limit."""
        return bool((self.spent(choice) <= 1.0).all())

    def slopes(self, choice: Choice) -> Floats:
        """Returns `[limit, group]`: what one more structure costs at these widths, as shares of the limits.

        In a branch that is gone, it is what it would cost if that were there, as wide as may be.
        """
        slopes = self._costs(choice).slopes[self.kinds][:, self._onto.columns]
        gone = self._gone(choice)
        if gone.any():
            slopes = np.where(
                gone, self._costs(self._restored(choice)).slopes[self.kinds][:, self._onto.columns], slopes
            )
        return np.asarray(slopes / self.limits[:, None])

    def _gone(self, choice: Choice) -> Bools:
        """Returns `[group]`: whether the group's branch is removed."""
        if self._onto.branches is None:
            return np.zeros(len(choice), dtype=np.bool_)
        return self._onto.branches.gone(self._widths(choice))

    def _restored(self, choice: Choice) -> Choice:
        """Returns the levels with every branch there, those that were gone as wide as may be."""
        return np.where(self._gone(choice), self.count - 1, choice)

    def _costs(self, choice: Choice) -> CostsAt:
        return self._onto.costs_at(self._widths(choice))

    def linearised(self, choice: Choice, weights: Floats) -> Prices:
        """Returns what structures and branches cost at these levels, by `[limit]` weights of the costs."""
        slopes = weights @ self.slopes(choice)
        if not len(self.leads):
            return Prices(slopes, np.ones(0))
        sums = self._members @ (slopes * self._widths(self._restored(choice)))
        return Prices(slopes, weights @ self.saved(choice) / np.maximum(sums, 1e-15))

    def saved(self, choice: Choice) -> Floats:
        """Returns `[limit, lead]`: what the removal of each branch saves, or if it is gone what it would cost whole."""
        base = np.tile(choice, (len(self.leads), 1))
        restored = self._restored(choice)
        rows = np.arange(len(self.leads))
        there = np.where(self._members > 0, restored, base)
        without = base.copy()
        without[rows, self.leads] = 0
        spent = self._onto.costs_at(self._widths(np.concatenate((there, without)))).spent
        more, less = spent[: len(rows)], spent[len(rows) :]
        return np.asarray((more - less)[:, self.kinds] / self.limits).T

    def cheapest(self, prices: Prices, multiplier: float = 1.0) -> Choice:
        """Returns the level of least loss plus price times width; ties go to the narrower.

        Args:
            prices: of one structure of each group.
            multiplier: of the prices.
        """
        per_group = multiplier * prices.structures
        sums = self.losses + per_group[:, None] * self.widths
        if not len(self.leads):
            return np.asarray(np.argmin(sums, axis=1))
        sums[self.leads, 0] = np.inf
        choice = np.argmin(sums, axis=1)
        lost = self._members @ self.losses[self._rows, choice]
        spent = self._members @ (per_group * self.widths[self._rows, choice])
        choice[self.leads[self.losses[self.leads, 0] <= lost + prices.branches * spent]] = 0
        return np.asarray(choice)

    def narrowings(self, choice: Choice, weights: Floats) -> list[tuple[int, int]]:
        """Returns (group, narrower level), each that of least loss added per cost saved, the best group first.

        Args:
            choice: the levels now.
            weights: `[limit]` of the costs.
        """
        open_ = (np.arange(self.losses.shape[1]) < choice[:, None]) & ~self._gone(choice)[:, None]
        rate = self._rates(choice, weights @ self.slopes(choice), open_)
        for lead, saved in zip(self.leads.tolist(), (weights @ self.saved(choice)).tolist(), strict=True):
            if choice[lead]:
                rate[lead, 0] = self.loss_after(choice, lead, 0) / max(saved, 1e-15)
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
        gone = self._gone(choice)
        rate = self._rates(choice, weights @ slopes, open_ & ~gone[:, None])
        for lead in self.leads[gone[self.leads]].tolist():
            rate[lead, 1 : self.count[lead]] = self._return_rates(choice, lead, weights)
        return self._in_order(np.where(rate > 0, -rate, np.inf))

    def _rates(self, choice: Choice, prices: Floats, open_: Bools) -> Floats:
        """Returns `[group, level]` loss saved per cost of going to a level, NaN where it is not open."""
        saved = self.losses[self._rows, choice][:, None] - np.where(open_, self.losses, 0.0)
        cost = np.maximum(prices, 1e-15)[:, None] * (self.widths - self.widths[self._rows, choice][:, None])
        return np.asarray(np.divide(saved, cost, out=np.full(cost.shape, np.nan), where=open_))

    def _return_rates(self, choice: Choice, lead: int, weights: Floats) -> Floats:
        """Returns `[level - 1]` loss saved per cost if a branch that is gone comes back; NaN where it cannot."""
        levels = np.arange(1, self.count[lead])
        there = np.tile(choice, (len(levels), 1))
        there[:, lead] = levels
        spent = self._onto.costs_at(self._widths(there)).spent[:, self.kinds] / self.limits
        inside = self._members[self.leads == lead][0] * (self._rows != lead)
        others = float((inside * self.losses[self._rows, choice]).sum())
        saved = self.losses[lead, 0] - self.losses[lead, levels] - others
        cost = np.maximum((spent - self.spent(choice)) @ weights, 1e-15)
        return np.where((spent <= 1.0).all(axis=1), saved / cost, np.nan)

    def _in_order(self, score: Floats) -> list[tuple[int, int]]:
        """Returns (group, its level of least score) by score, ties by group; infinite scores are left out."""
        levels = score.argmin(axis=1)
        least = score[self._rows, levels]
        order = np.argsort(least, kind="stable")[: int(np.isfinite(least).sum())]
        return [(int(group), int(levels[group])) for group in order]


@dataclass(frozen=True)
class Prices:
    """Linearised costs.

    Attributes:
        structures: `[group]` of one more structure.
        branches: `[lead]` what a whole branch costs as a share of the sum of its structures' costs.
    """

    structures: Floats
    branches: Floats


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
        choice = _least_multiplier(model, model.linearised(current, weights))
        found.append(_fill(model, _repair(model, choice, weights), weights))
        if (found[-1] == current).all():
            break
        current = found[-1]
    return min(found, key=model.loss)


def _least_multiplier(model: AdditiveModel, prices: Prices) -> Choice:
    """Returns the choice under the least multiplier whose exact costs fit, or of the greatest tried."""
    low, high = -12.0, 12.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if model.fits(model.cheapest(prices, 10.0**middle)) else (middle, high)
    return model.cheapest(prices, 10.0**high)


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
    """Returns (group, level) of one to three levels narrower and of removals, those that lose least first."""
    moves = [(g, int(choice[g]) - by) for g in range(len(choice)) for by in (1, 2, 3) if choice[g] >= by]
    moves += [(lead, 0) for lead in model.leads.tolist() if choice[lead] > 3]
    return sorted(moves, key=lambda move: model.loss_after(choice, *move))


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
