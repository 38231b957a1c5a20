"""The allocations that searches begin with: what needs no evaluation is tried before anything is searched."""

from __future__ import annotations

from autoprune.core.allocation import Allocation
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.controls import uniform_allocation
from autoprune.searchers.knapsack import EXPONENTS, knapsack_allocation
from autoprune.searchers.threshold import threshold_allocation


def standard_starts(problem: SearchProblem) -> tuple[Allocation, ...]:
    """Returns uniform and, for each criterion's curves, threshold and the knapsacks; those that differ."""
    found = [uniform_allocation(problem)]
    for curves in problem.curves.values():
        found.append(threshold_allocation(problem, curves))
        found.extend(knapsack_allocation(problem, curves, exponent) for exponent in EXPONENTS)
    return tuple(dict.fromkeys(found))
