"""Random search: every width drawn by itself, then projected onto the limits.

Source: Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization", JMLR 13. Draws above the budget are
projected, not rejected: at half of the FLOPs of a deep network nearly all of them would be. Settings that are searched
along are drawn by themselves, too.
"""

from __future__ import annotations

import numpy as np

from autoprune.core.allocation import Allocation, width_from_sparsity
from autoprune.core.costs import within
from autoprune.core.projection import check_feasible
from autoprune.core.space import SearchSpace
from autoprune.searchers.base.coordinates import Point, Proposal, draw_settings
from autoprune.searchers.base.history import FixedListSearcher, History, SequentialSearcher
from autoprune.searchers.base.searcher import SearchProblem

_HALVINGS = 40


def at_sparsity(space: SearchSpace, sparsity: float) -> Allocation:
    """Every group at one sparsity, moved to the nearest narrower width that its bounds allow."""
    return Allocation(
        {g.name: space.bounds[g.name].below(width_from_sparsity(g.width, sparsity)) for g in space.groups}
    )


def least_sparsity(problem: SearchProblem) -> float:
    """The least sparsity which, the same in every group, keeps every limit.

    Raises:
        BudgetInfeasible: none does.
    """
    check_feasible(problem.space, problem.costs, problem.limits)

    def fits(sparsity: float) -> bool:
        return within(at_sparsity(problem.space, sparsity), problem.costs, problem.limits)

    if fits(0.0):
        return 0.0
    outside, inside = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        outside, inside = (outside, middle) if fits(middle) else (middle, inside)
    return inside


def uniform_allocation(problem: SearchProblem) -> Allocation:
    """The least uniform sparsity that keeps every limit, with what is left of the budget filled.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    return problem.project(at_sparsity(problem.space, least_sparsity(problem)))


class Uniform(FixedListSearcher):
    """Proposes the uniform allocation, once."""

    uses_curves = False
    handles_settings = False

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, [uniform_allocation(problem)])


DRAWS = 200
"""How many draws in a row must all have been proposed before until the space counts as exhausted."""


def draw(problem: SearchProblem, rng: np.random.Generator) -> Allocation:
    """An allocation with every width uniform among those allowed, projected."""
    return draws(problem, rng, 1)[0]


def draws(problem: SearchProblem, rng: np.random.Generator, count: int) -> list[Allocation]:
    """Several of the kind, in less time than one by one."""
    onto = problem.projection
    return onto.projected(np.array([onto.vector(drawn_widths(problem, rng)) for _ in range(count)]))


def drawn_widths(problem: SearchProblem, rng: np.random.Generator) -> dict[str, int]:
    """Every width by itself, uniform among those allowed; not within the limits."""
    names = problem.space.names
    levels = [problem.space.bounds[name].levels() for name in names]
    chosen = rng.integers([len(each) for each in levels]).tolist()
    return {name: each[i] for name, each, i in zip(names, levels, chosen, strict=True)}


def draw_new(history: History, rng: np.random.Generator, settings: bool = False) -> Proposal | None:
    """A draw that was not proposed before, or None if `DRAWS` in a row were.

    Args:
        settings: whether the settings are drawn, too; else they keep their defaults.
    """
    problem = history.problem
    if settings:
        return history.first_new(
            Point(draw(problem, rng), draw_settings(problem.space.settings, rng)) for _ in range(DRAWS)
        )
    return history.first_new(draw(problem, rng) for _ in range(DRAWS))


class Random(SequentialSearcher):
    """Proposes independent draws, never the same twice; ends when it finds no new one."""

    uses_curves = False
    handles_settings = True

    def _next(self) -> Proposal | None:
        return draw_new(self._history, self._history.problem.generator(self._history.number), settings=True)
