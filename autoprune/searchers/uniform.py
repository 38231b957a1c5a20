"""The same sparsity in every group: what any search must beat.

Source: Li et al. 2017, arXiv:1608.08710, who prune all layers of a stage by one ratio; here it is one for the network.
Whole structures leave some of the budget unspent; the projection fills it, so that groups may differ by a few.
"""

from __future__ import annotations

from autoprune.core.allocation import Allocation, width_from_sparsity
from autoprune.core.budget import check_feasible, within
from autoprune.core.space import SearchSpace
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import Given

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


class Uniform(Given):
    """Proposes the uniform allocation, once."""

    uses_curves = False

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, [uniform_allocation(problem)])
