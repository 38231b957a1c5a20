"""Small changes of an allocation that stay on the limits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import Ints, Tally
from autoprune.core.projection import has_room
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
    onto = problem.projection
    widths = onto.vector(allocation)
    tally = onto.tally(widths)
    for _ in range(pairs):
        _swap(problem, widths, tally, rng, reach)
    return onto.projected(widths)


def _swap(problem: SearchProblem, widths: Ints, tally: Tally, rng: np.random.Generator, reach: float) -> None:
    """One trade, in place: `[group]` widths and their costs."""
    onto = problem.projection
    givers = np.flatnonzero(widths > onto.lowest)
    if not len(givers):
        return
    giver = int(givers[rng.integers(len(givers))])
    takers = np.flatnonzero(widths < onto.ceiling)
    takers = takers[takers != giver]
    levels = problem.space.bounds[onto.names[giver]].levels()
    narrower = bisect_left(levels, widths[giver])
    furthest = min(narrower, max(1, round(reach * len(levels))))
    by = levels[narrower - int(rng.integers(1, furthest + 1))] - int(widths[giver])
    widths[giver] += by
    tally.widen(onto.columns[giver], by)
    if len(takers):
        taker = int(takers[rng.integers(len(takers))])
        by = _most(problem, int(widths[taker]), tally, taker)
        widths[taker] += by
        tally.widen(onto.columns[taker], by)


def _most(problem: SearchProblem, width: int, tally: Tally, group: int) -> int:
    """By how much a group can become wider within the limits."""
    levels = problem.space.bounds[problem.projection.names[group]].levels()
    wider = levels[bisect_right(levels, width) :]
    room = problem.projection.room(tally)
    fitting = bisect_left(wider, True, key=lambda level: not has_room(room, group, level - width))
    return wider[fitting - 1] - width if fitting else 0
