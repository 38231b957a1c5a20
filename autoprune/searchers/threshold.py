"""The smallest widths whose degradation stays under one bound common to all groups.

Source: the greedy compression-ratio selection in the documentation of Qualcomm's AIMET, and FastNAS of NVIDIA's
ModelOpt; both cut each layer by itself until its own score falls to a threshold, and search that threshold. Here the
bound is found exactly, by bisection over the degradations that occur, and what the limits leave is filled.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.costs import within
from autoprune.core.projection import check_feasible
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.searchers.base.searcher import SearchProblem, measured_curves
from autoprune.searchers.base.sequential import SequentialSearcher

Levels = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]


def level_losses(problem: SearchProblem, curves: SensitivityCurves) -> Levels:
    """Per group, its `[level]` allowed widths, ascending, and the `[level]` degradation at each, never rising."""
    tables = {}
    for name in problem.space.names:
        levels = np.array(problem.space.bounds[name].levels(), dtype=np.int64)
        tables[name] = (levels, curves.curve(name, problem.objective).at(levels))
    return tables


def threshold_allocation(problem: SearchProblem, curves: SensitivityCurves) -> Allocation:
    """The narrowest widths under the least common bound that keeps every limit, with what is left filled.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    check_feasible(problem.space, problem.costs, problem.limits)
    losses = level_losses(problem, curves)
    bounds = np.unique(np.concatenate([worse for _, worse in losses.values()]))
    outside, inside = -1, len(bounds) - 1  # under the greatest bound every group is at its narrowest
    while inside - outside > 1:
        middle = (outside + inside) // 2
        fits = within(_narrowest_under(losses, bounds[middle]), problem.costs, problem.limits)
        outside, inside = (outside, middle) if fits else (middle, inside)
    return problem.project(_narrowest_under(losses, bounds[inside]))


def _narrowest_under(losses: Levels, bound: float) -> Allocation:
    """Per group the first level at or below the bound; the widest where none is (its ceiling is below dense)."""
    chosen = {}
    for name, (levels, worse) in losses.items():
        chosen[name] = int(levels[min(int(np.count_nonzero(worse > bound)), len(levels) - 1)])
    return Allocation(chosen)


class Threshold(SequentialSearcher):
    """Proposes the threshold allocation of each criterion's curves."""

    uses_curves = True
    needs_curves = True
    handles_settings = False
    is_random = False

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        curves = measured_curves(problem, "threshold")
        self._allocations = [threshold_allocation(problem, each) for each in curves]

    def _next(self) -> Allocation | None:
        return self._history.first_new(self._allocations)
