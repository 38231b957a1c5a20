"""Random allocations on the limits."""

from __future__ import annotations

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.searchers.base.coordinates import Point, Proposal, draw_settings
from autoprune.searchers.base.history import History
from autoprune.searchers.base.searcher import SearchProblem

DRAWS = 200
"""How many draws in a row must all have been proposed before until the space counts as exhausted."""


def draw(problem: SearchProblem, rng: np.random.Generator) -> Allocation:
    """Draws an allocation with every width uniform among those allowed, projected."""
    return draws(problem, rng, 1)[0]


def draws(problem: SearchProblem, rng: np.random.Generator, count: int) -> list[Allocation]:
    """Draws several, in less time than one by one."""
    onto = problem.projection
    return onto.projected(np.array([onto.vector(drawn_widths(problem, rng)) for _ in range(count)]))


def drawn_widths(problem: SearchProblem, rng: np.random.Generator) -> dict[str, int]:
    """Draws every width by itself, uniform among those allowed; not within the limits."""
    names = problem.space.names
    levels = [problem.space.bounds[name].levels() for name in names]
    chosen = rng.integers([len(each) for each in levels]).tolist()
    return {name: each[i] for name, each, i in zip(names, levels, chosen, strict=True)}


def draw_new(history: History, rng: np.random.Generator, settings: bool = False) -> Proposal | None:
    """Returns a draw that was not proposed before, or None if `DRAWS` in a row were.

    Args:
        history: of the search.
        rng: of the draws.
        settings: whether the settings are drawn, too; else they keep their defaults.
    """
    problem = history.problem
    if settings:
        return history.first_new(
            Point(draw(problem, rng), draw_settings(problem.space.settings, rng)) for _ in range(DRAWS)
        )
    return history.first_new(draw(problem, rng) for _ in range(DRAWS))
