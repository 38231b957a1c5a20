"""Where a search begins: allocations that cost nothing to find and are worth a real evaluation each.

On deep networks the plain knapsack can be worse than uniform, because small losses compound; so none is trusted alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.allocation import Allocation
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.knapsack import EXPONENTS, knapsack_allocation
from autoprune.searchers.threshold import threshold_allocation
from autoprune.searchers.uniform import uniform_allocation


def starts(problem: SearchProblem) -> tuple[Allocation, ...]:
    """Uniform and, for each criterion's curves, threshold and the knapsacks of several exponents; those that differ."""
    found = [uniform_allocation(problem)]
    for curves in problem.curves.values():
        found.append(threshold_allocation(problem, curves))
        found.extend(knapsack_allocation(problem, curves, exponent) for exponent in EXPONENTS)
    return tuple(dict.fromkeys(found))


def opening(problem: SearchProblem, given: Sequence[Allocation] | None) -> tuple[Allocation, ...]:
    """The allocations that a search begins with: the standard ones for None, else the given ones, projected."""
    chosen = starts(problem) if given is None else [problem.project(allocation) for allocation in given]
    return tuple(dict.fromkeys(chosen))
