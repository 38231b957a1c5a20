"""The controls that every other searcher is compared with: one sparsity for all groups, and random draws.

Source of random search: Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization", JMLR 13. Draws
above the budget are projected, not rejected: at half of the FLOPs of a deep network nearly all of them would be.
Settings that are searched along are drawn by themselves, too.
"""

from __future__ import annotations

from autoprune.core.allocation import Allocation, width_from_sparsity
from autoprune.core.costs import within
from autoprune.core.space import SearchSpace
from autoprune.searchers.base.coordinates import Proposal
from autoprune.searchers.base.moves import draw_new
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.sequential import FixedListSearcher, SequentialSearcher

_HALVINGS = 40


def at_sparsity(space: SearchSpace, sparsity: float) -> Allocation:
    """Returns every group at one sparsity, at the nearest narrower width that its bounds allow; no branch goes."""
    bounds = space.bounds
    kept = {g.name: max(width_from_sparsity(g.width, sparsity), bounds[g.name].lowest) for g in space.groups}
    return Allocation({name: bounds[name].below(width) for name, width in kept.items()})


def least_sparsity(problem: SearchProblem) -> float:
    """Returns the least sparsity which, the same in every group, keeps every limit; 1 if none does."""

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
    """Returns the least uniform sparsity that keeps every limit, with what is left of the budget filled.

    Branches are removed only where the limits cannot be kept otherwise.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    return problem.project(at_sparsity(problem.space, least_sparsity(problem)))


class Uniform(FixedListSearcher):
    """Proposes the uniform allocation, once."""

    uses_curves = False

    def _list(self, problem: SearchProblem) -> list[Allocation]:
        return [uniform_allocation(problem)]


class Random(SequentialSearcher):
    """Proposes independent draws, never the same twice; ends when it finds no new one."""

    uses_curves = False
    handles_settings = True

    def _next(self) -> Proposal | None:
        return draw_new(self._history, self._history.problem.generator(self._history.number), settings=True)
