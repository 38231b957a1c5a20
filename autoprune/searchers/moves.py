"""Small changes of an allocation that stay on the limits."""

from __future__ import annotations

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.searchers.base import History, SearchProblem

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
    return next((each for each in found if each not in history), None)
