"""Random allocations on the limits, and small changes of one that stay there."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.projecting.slack import Slack
from autoprune.searchers.base.coordinates import Point, draw_settings
from autoprune.searchers.base.history import History
from autoprune.searchers.base.searcher import SearchProblem

DRAWS = 200
"""How many draws in a row must all have been proposed before until the space counts as exhausted."""
NEIGHBOURS = 50
"""How many neighbours in a row must all have been proposed before until there counts as none."""
_REACH = 0.25
"""The furthest a single move goes, as a share of a group's levels."""
MOST_REMOVED = 0.5
"""The greatest share of the branches that may be removed which random draws are without."""
REMOVAL = 0.25
"""How often a group at whose width 0 a branch is removed gives all that it has, when it gives."""
PAIRS = 3
"""The most trades in one mutation."""
REACH = (0.05, 0.3, 0.5)
"""The least, the first and the greatest share of a group's levels that a trade may cross."""


def draws(problem: SearchProblem, rng: np.random.Generator, count: int) -> list[Allocation]:
    """Draws allocations with every width uniform among those allowed, projected.

    Args:
        problem: whose space they lie in, and whose limits they keep.
        rng: of the draws.
        count: how many; drawn together they take less time than one by one.
    """
    onto = problem.projection
    return onto.projected(np.array([onto.vector(drawn_widths(problem, rng)) for _ in range(count)]))


def drawn_widths(problem: SearchProblem, rng: np.random.Generator) -> dict[str, int]:
    """Draws every width by itself, uniform among those allowed; not within the limits.

    Of the branches that may be removed each is so with one probability, which is drawn too.
    """
    names, bounds = problem.space.names, problem.space.bounds
    levels = [bounds[name].levels()[bounds[name].removable :] for name in names]
    chosen = rng.integers([len(each) for each in levels]).tolist()
    widths = {name: each[i] for name, each, i in zip(names, levels, chosen, strict=True)}
    leads = [name for name in names if bounds[name].removable]
    if leads:
        gone = rng.random(len(leads)) < rng.uniform(0.0, MOST_REMOVED)
        widths.update({name: 0 for name, removed in zip(leads, gone.tolist(), strict=True) if removed})
    return widths


def draw_new(history: History, rng: np.random.Generator, settings: bool = False) -> Point | None:
    """Returns a draw that was not proposed before, or None if `DRAWS` in a row were.

    Args:
        history: of the search.
        rng: of the draws.
        settings: whether the settings are drawn, too; else they keep their defaults.
    """
    problem = history.problem
    return history.first_new(
        Point(
            draws(problem, rng, 1)[0],
            draw_settings(problem.space.settings, rng) if settings else problem.default_settings,
        )
        for _ in range(DRAWS)
    )


def neighbour(problem: SearchProblem, allocation: Allocation, rng: np.random.Generator) -> Allocation:
    """Returns the allocation with one or two groups moved by a few levels, in opposite directions if two, projected.

    Args:
        problem: whose limits hold.
        allocation: each of its widths is one of the space's levels.
        rng: of the move.
    """
    leads = problem.space.leads
    names = [name for name in problem.space.names if name not in leads or allocation[leads[name]]]
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


def new_neighbour(history: History, at: Point, rng: np.random.Generator) -> Point | None:
    """Returns a neighbour that was not proposed before, or None if `NEIGHBOURS` in a row were.

    Args:
        history: of the search.
        at: what it is a neighbour of; it has the same settings.
        rng: of the draws.
    """
    return history.first_new(
        Point(neighbour(history.problem, at.allocation, rng), at.settings) for _ in range(NEIGHBOURS)
    )


def trades(
    problem: SearchProblem, allocation: Allocation, rng: np.random.Generator, reach: float, pairs: Iterable[int]
) -> list[Allocation]:
    """Returns the allocation after some trades of width, projected so that nothing of the budget is left.

    In a trade one group is narrowed and another widened by as many levels as the limits then allow, so the other groups
    keep their widths, apart from what the projection fills. To narrow may be to remove a branch, to widen to bring one
    back.

    Args:
        problem: whose limits hold.
        allocation: within them.
        rng: of the trades.
        reach: the greatest share of its levels, in (0, 1], by which a group is narrowed.
        pairs: how many trades are made, for each allocation to be returned.
    """
    onto = problem.projection
    begin = onto.vector(allocation)
    slack_there, found = onto.slack(onto.costs_at(begin)), []
    for count in pairs:
        widths, slack = begin.tolist(), slack_there.copy()
        for _ in range(count):
            slack = _trade_once(problem, widths, slack, rng, reach)
        found.append(widths)
    return onto.projected(np.array(found))


def mutants(
    problem: SearchProblem, parent: Allocation, rng: np.random.Generator, reach: float, count: int
) -> list[Allocation]:
    """Returns allocations of which each is the parent after one to `PAIRS` trades, few more often than many.

    Args:
        problem: whose limits hold.
        parent: within them.
        rng: of the trades.
        reach: the greatest share of its levels, in (0, 1], by which a group is narrowed.
        count: how many are returned; some may be equal.
    """
    pairs = (int(rng.integers(1, PAIRS + 1, size=2).min()) for _ in range(count))
    return trades(problem, parent, rng, reach, pairs)


def _trade_once(
    problem: SearchProblem, widths: list[int], slack: Slack, rng: np.random.Generator, reach: float
) -> Slack:
    """Makes one trade in place: changes `[group]` widths, and returns what they leave of the limits."""
    onto = problem.projection
    bounds = onto.bounds
    givers = [group for group, each in enumerate(bounds) if widths[group] > each.least]
    if not givers:
        return slack
    giver = givers[int(rng.integers(len(givers)))]
    levels = bounds[giver].levels()
    narrower = bisect_left(levels, widths[giver])
    furthest = min(narrower, max(1, round(reach * len(levels))))
    by = levels[narrower - int(rng.integers(1, furthest + 1))] - widths[giver]
    if bounds[giver].removable and (by == -widths[giver] or rng.random() < REMOVAL):
        slack = _put(problem, widths, giver, 0)
    else:
        widths[giver] += by
        slack.widen(giver, by)
    gone = () if onto.branches is None else np.flatnonzero(onto.branches.gone(np.array(widths))).tolist()
    takers = [
        group
        for group, each in enumerate(bounds)
        if widths[group] < each.ceiling and group != giver and (each.removable or group not in gone)
    ]
    if not takers:
        return slack
    taker = takers[int(rng.integers(len(takers)))]
    if taker in gone:
        return _put(problem, widths, taker, _widest_return(problem, widths, taker))
    by = _widest_gain(bounds[taker].levels(), widths[taker], slack, taker)
    widths[taker] += by
    slack.widen(taker, by)
    return slack


def _put(problem: SearchProblem, widths: list[int], lead: int, width: int) -> Slack:
    """Removes a branch or brings it back, in place, and returns what `[group]` widths then leave of the limits."""
    onto = problem.projection
    wanted = np.array(widths, dtype=np.int64)
    wanted[lead] = width
    widths[:] = onto.nearest(wanted).tolist()
    return onto.slack(onto.costs_at(np.array(widths, dtype=np.int64)))


def _widest_return(problem: SearchProblem, widths: Sequence[int], lead: int) -> int:
    """Returns the greatest width at which a branch that is gone can come back within the limits; 0 if none is."""
    onto = problem.projection
    levels = onto.bounds[lead].levels()
    wanted = np.tile(np.array(widths, dtype=np.int64), (len(levels), 1))
    wanted[:, lead] = levels
    fitting = int(onto.fits(onto.nearest(wanted)).sum())
    return levels[max(fitting - 1, 0)]


def _widest_gain(levels: Sequence[int], width: int, slack: Slack, group: int) -> int:
    """Returns by how much a group can become wider within the limits."""
    wider = levels[bisect_right(levels, width) :]
    fitting = bisect_left(wider, True, key=lambda level: not slack.holds(group, level - width))
    return wider[fitting - 1] - width if fitting else 0
