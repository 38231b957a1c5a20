"""Small changes of an allocation that stay on the limits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import Tally
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import History
from autoprune.searchers.points import Point, Proposal

_REACH = 0.25
"""The furthest a single move goes, as a share of a group's levels."""


def neighbour(problem: SearchProblem, allocation: Allocation, rng: np.random.Generator) -> Allocation:
    """The allocation with one or two groups moved by a few levels, in opposite directions if two, projected."""
    names = problem.space.names
    chosen = rng.choice(len(names), size=min(int(rng.integers(1, 3)), len(names)), replace=False)
    direction = int(rng.choice([-1, 1]))
    widths = dict(allocation)
    for index in chosen.tolist():
        levels = problem.space.bounds[names[index]].levels()
        at = levels.index(allocation[names[index]])
        by = int(rng.integers(1, max(1, round(_REACH * len(levels))) + 1))
        widths[names[index]] = levels[min(max(at + direction * by, 0), len(levels) - 1)]
        direction = -direction
    return problem.project(widths)


def new_neighbour(history: History, at: Proposal, rng: np.random.Generator, draws: int) -> Proposal | None:
    """A neighbour, under the same settings, that was not proposed before, or None if `draws` in a row were."""
    if isinstance(at, Point):
        return history.first_new(
            Point(neighbour(history.problem, at.allocation, rng), at.settings) for _ in range(draws)
        )
    return history.first_new(neighbour(history.problem, at, rng) for _ in range(draws))


def trade(
    problem: SearchProblem, allocation: Allocation, rng: np.random.Generator, reach: float, pairs: int = 1
) -> Allocation:
    """The allocation after `pairs` trades of width, projected so that nothing of the budget is left.

    In a trade one group is narrowed by at most `reach` of its levels and another widened by as many as the limits
    then allow, so the other groups keep their widths, apart from what the projection fills.
    """
    widths, tally = dict(allocation), problem.costs.tally(problem.costs.vector(allocation))
    for _ in range(pairs):
        _swap(problem, widths, tally, rng, reach)
    return problem.project(widths)


def _swap(problem: SearchProblem, widths: dict[str, int], tally: Tally, rng: np.random.Generator, reach: float) -> None:
    """One trade, in place."""
    bounds, names = problem.space.bounds, problem.space.names
    givers = [name for name in names if widths[name] > bounds[name].lowest]
    if not givers:
        return
    giver = givers[int(rng.integers(len(givers)))]
    takers = [name for name in names if name != giver and widths[name] < bounds[name].ceiling]
    levels = bounds[giver].levels()
    narrower = bisect_left(levels, widths[giver])
    furthest = min(narrower, max(1, round(reach * len(levels))))
    _set(problem, widths, tally, giver, levels[narrower - int(rng.integers(1, furthest + 1))])
    if takers:
        taker = takers[int(rng.integers(len(takers)))]
        levels = bounds[taker].levels()
        wider = levels[bisect_right(levels, widths[taker]) :]
        _set(problem, widths, tally, taker, _widest(problem, widths, tally, taker, wider))


def _set(problem: SearchProblem, widths: dict[str, int], tally: Tally, group: str, width: int) -> None:
    tally.widen(problem.costs.column(group), width - widths[group])
    widths[group] = width


def _widest(problem: SearchProblem, widths: Mapping[str, int], tally: Tally, group: str, wider: Sequence[int]) -> int:
    """The widest of a group's wider levels that keeps the limits, the width it has if none does."""
    column, at = problem.costs.column(group), widths[group]
    fitting = bisect_left(wider, 1, key=lambda level: not problem.keeps(tally.spent + tally.rise(column, level - at)))
    return wider[fitting - 1] if fitting else at
