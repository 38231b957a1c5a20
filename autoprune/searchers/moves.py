"""Small changes of an allocation that stay on the limits."""

from __future__ import annotations

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.budget import within
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import History

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


def new_neighbour(history: History, allocation: Allocation, rng: np.random.Generator, draws: int) -> Allocation | None:
    """A neighbour that was not proposed before, or None if `draws` in a row were."""
    found = (neighbour(history.problem, allocation, rng) for _ in range(draws))
    return history.first_new(found)


def trade(
    problem: SearchProblem, allocation: Allocation, rng: np.random.Generator, reach: float, pairs: int = 1
) -> Allocation:
    """The allocation after `pairs` trades of width, projected so that nothing of the budget is left.

    In a trade one group is narrowed by at most `reach` of its levels and another widened by as many as the limits
    then allow, so the other groups keep their widths, apart from what the projection fills.
    """
    for _ in range(pairs):
        allocation = _traded(problem, allocation, rng, reach)
    return problem.project(allocation)


def _traded(problem: SearchProblem, allocation: Allocation, rng: np.random.Generator, reach: float) -> Allocation:
    bounds, names = problem.space.bounds, problem.space.names
    givers = [name for name in names if allocation[name] > bounds[name].lowest]
    if not givers:
        return allocation
    giver = givers[int(rng.integers(len(givers)))]
    takers = [name for name in names if name != giver and allocation[name] < bounds[name].ceiling]
    narrower = [level for level in bounds[giver].levels() if level < allocation[giver]]
    furthest = min(len(narrower), max(1, round(reach * len(bounds[giver].levels()))))
    widths = {**allocation, giver: narrower[-int(rng.integers(1, furthest + 1))]}
    if takers:
        taker = takers[int(rng.integers(len(takers)))]
        widths[taker] = _widest(problem, widths, taker)
    return Allocation(widths)


def _widest(problem: SearchProblem, widths: dict[str, int], group: str) -> int:
    """The widest level of a group within the limits, all others as they are; its own if there is no wider one."""
    levels = [level for level in problem.space.bounds[group].levels() if level >= widths[group]]
    fits, above = 0, len(levels)
    while above - fits > 1:
        middle = (fits + above) // 2
        inside = within({**widths, group: levels[middle]}, problem.costs, problem.limits)
        fits, above = (middle, above) if inside else (fits, middle)
    return levels[fits]
