"""Small changes of an allocation that stay on the limits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.slack import Slack
from autoprune.searchers.base.coordinates import Point, Proposal
from autoprune.searchers.base.history import History
from autoprune.searchers.base.searcher import SearchProblem

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
    return trades(problem, allocation, rng, reach, [pairs])[0]


def trades(
    problem: SearchProblem, allocation: Allocation, rng: np.random.Generator, reach: float, pairs: Iterable[int]
) -> list[Allocation]:
    """Several of the kind, with so many trades each, in less time than one by one."""
    onto = problem.projection
    widths = onto.vector(allocation)
    slack = onto.slack(onto.costs_at(widths))
    return onto.projected(np.array([_swapped(problem, widths.tolist(), slack.copy(), rng, reach, n) for n in pairs]))


def _swapped(
    problem: SearchProblem, widths: list[int], slack: Slack, rng: np.random.Generator, reach: float, pairs: int
) -> list[int]:
    """`[group]` widths after some trades; what was given is changed."""
    for _ in range(pairs):
        _swap(problem, widths, slack, rng, reach)
    return widths


def _swap(problem: SearchProblem, widths: list[int], slack: Slack, rng: np.random.Generator, reach: float) -> None:
    """One trade, in place: `[group]` widths and what they leave."""
    bounds = problem.projection.bounds
    givers = [group for group, each in enumerate(bounds) if widths[group] > each.lowest]
    if not givers:
        return
    giver = givers[int(rng.integers(len(givers)))]
    takers = [group for group, each in enumerate(bounds) if widths[group] < each.ceiling and group != giver]
    levels = bounds[giver].levels()
    narrower = bisect_left(levels, widths[giver])
    furthest = min(narrower, max(1, round(reach * len(levels))))
    by = levels[narrower - int(rng.integers(1, furthest + 1))] - widths[giver]
    widths[giver] += by
    slack.widen(giver, by)
    if takers:
        taker = takers[int(rng.integers(len(takers)))]
        by = _most(bounds[taker].levels(), widths[taker], slack, taker)
        widths[taker] += by
        slack.widen(taker, by)


def _most(levels: Sequence[int], width: int, slack: Slack, group: int) -> int:
    """By how much a group can become wider within the limits."""
    wider = levels[bisect_right(levels, width) :]
    fitting = bisect_left(wider, True, key=lambda level: not slack.holds(group, level - width))
    return wider[fitting - 1] - width if fitting else 0
