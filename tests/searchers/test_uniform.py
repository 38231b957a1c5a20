from __future__ import annotations

from dataclasses import replace

import pytest

from autoprune.core.costs import within
from autoprune.errors import BudgetInfeasible
from autoprune.searchers.controls import at_sparsity, least_sparsity, uniform_allocation
from autoprune.testing.problems import depth
from tests.searchers.landscapes import make_problem


def test_the_sparsity_is_the_least_that_keeps_the_limits() -> None:
    problem = make_problem(keep=0.47)
    found = least_sparsity(problem)
    assert within(at_sparsity(problem.space, found), problem.costs, problem.limits)
    assert not within(at_sparsity(problem.space, found - 1e-6), problem.costs, problem.limits)


def test_what_is_left_of_the_budget_is_filled() -> None:
    problem = make_problem()
    allocation = uniform_allocation(problem)
    assert problem.project(allocation) == allocation
    keeps = [allocation[g.name] / g.width for g in problem.space.groups]
    assert max(keeps) - min(keeps) < 0.1


def test_a_budget_of_everything_prunes_nothing() -> None:
    problem = make_problem(keep=1.0)
    assert least_sparsity(problem) == 0.0
    assert uniform_allocation(problem) == problem.space.dense()


def test_an_unreachable_budget_is_refused() -> None:
    problem = replace(make_problem(), limits={"flops": 1})
    with pytest.raises(BudgetInfeasible, match="cannot be met"):
        uniform_allocation(problem)


def test_branches_stay_unless_the_budget_cannot_be_met_with_them() -> None:
    problem = depth()
    space = problem.space
    with_all = {name: space.bounds[name].lowest for name in space.names}
    least = problem.costs.cost(with_all, "flops")
    for limit in (problem.limits["flops"], least):
        assert all(uniform_allocation(replace(problem, limits={"flops": limit})).values())
    below = uniform_allocation(replace(problem, limits={"flops": least - 1}))
    assert sum(below[name] == 0 for name in space.names if space.bounds[name].removable) == 1
