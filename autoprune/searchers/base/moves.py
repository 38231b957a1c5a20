"""Small changes of an allocation that stay on the limits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.projection import Slack
from autoprune.searchers.base.coordinates import Point, Proposal
from autoprune.searchers.base.history import History
from autoprune.searchers.base.searcher import SearchProblem

_REACH = 0.25
"""The furthest a single move goes, as a share of a group's levels."""
PAIRS = 3
"""The most trades in one mutation."""
REACH = (0.05, 0.3, 0.5)
"""The least, the first and the greatest share of a group's levels that a trade may cross."""


def neighbour(problem: SearchProblem, allocation: Allocation, rng: np.random.Generator) -> Allocation:
    """Returns the allocation with one or two groups moved by a few levels, in opposite directions if two, projected."""
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
    """Returns a neighbour, under the same settings, that was not proposed before, or None if `draws` in a row were."""
    if isinstance(at, Point):
        return history.first_new(
            Point(neighbour(history.problem, at.allocation, rng), at.settings) for _ in range(draws)
        )
    return history.first_new(neighbour(history.problem, at, rng) for _ in range(draws))


def trade(
    problem: SearchProblem, allocation: Allocation, rng: np.random.Generator, reach: float, pairs: int = 1
) -> Allocation:
    """Returns the allocation after `pairs` trades of width, projected so that nothing of the budget is left.

    In a trade one group is narrowed by at most `reach` of its levels and another widened by as many as the limits
    then allow, so the other groups keep their widths, apart from what the projection fills.
    """
    return trades(problem, allocation, rng, reach, [pairs])[0]


def trades(
    problem: SearchProblem, allocation: Allocation, rng: np.random.Generator, reach: float, pairs: Iterable[int]
) -> list[Allocation]:
    """Returns the allocation after so many trades, for each of `pairs`; faster than one by one."""
    onto = problem.projection
    widths = onto.vector(allocation)
    slack = onto.slack(onto.costs_at(widths))
    return onto.projected(np.array([_traded(problem, widths.tolist(), slack.copy(), rng, reach, n) for n in pairs]))


def mutants(
    problem: SearchProblem, parent: Allocation, rng: np.random.Generator, reach: float, count: int
) -> list[Allocation]:
    """Returns `count` allocations, each the parent after one to `PAIRS` trades, few more often than many."""
    pairs = (int(rng.integers(1, PAIRS + 1, size=2).min()) for _ in range(count))
    return trades(problem, parent, rng, reach, pairs)


def _traded(
    problem: SearchProblem, widths: list[int], slack: Slack, rng: np.random.Generator, reach: float, pairs: int
) -> list[int]:
    """Returns `[group]` widths after some trades; the arguments are changed."""
    for _ in range(pairs):
        _trade_once(problem, widths, slack, rng, reach)
    return widths


def _trade_once(
    problem: SearchProblem, widths: list[int], slack: Slack, rng: np.random.Generator, reach: float
) -> None:
    """Makes one trade in place: changes `[group]` widths and what they leave of the limits."""
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
        by = _widest_gain(bounds[taker].levels(), widths[taker], slack, taker)
        widths[taker] += by
        slack.widen(taker, by)


def _widest_gain(levels: Sequence[int], width: int, slack: Slack, group: int) -> int:
    """Returns by how much a group can become wider within the limits."""
    wider = levels[bisect_right(levels, width) :]
    fitting = bisect_left(wider, True, key=lambda level: not slack.holds(group, level - width))
    return wider[fitting - 1] - width if fitting else 0
