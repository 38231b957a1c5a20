"""The smallest widths whose degradation stays under one bound common to all groups.

Source: the greedy compression-ratio selection in the documentation of Qualcomm's AIMET, and FastNAS of NVIDIA's
ModelOpt; both cut each layer by itself until its own score falls to a threshold, and search that threshold. Here the
bound is found exactly, by bisection over the degradations that occur, and what the limits leave is filled.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import Floats, Ints, within
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.searchers.base.searcher import SearchProblem, measured_curves
from autoprune.searchers.base.sequential import FixedListSearcher

Levels = Mapping[str, tuple[Ints, Floats]]


def level_losses(problem: SearchProblem, curves: SensitivityCurves) -> Levels:
    """Returns each group's `[level]` allowed widths, ascending, and the `[level]` degradations.

    These never rise from the narrowest but for 0, which may be better than that.
    """
    levels = {name: np.array(problem.space.bounds[name].levels(), dtype=np.int64) for name in problem.space.names}
    return {name: (widths, curves.curve(name, problem.objective).at(widths)) for name, widths in levels.items()}


def threshold_allocation(problem: SearchProblem, curves: SensitivityCurves) -> Allocation:
    """Returns the narrowest widths under the least common bound that keeps every limit, with what is left filled.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    losses = level_losses(problem, curves)
    bounds = np.unique(np.concatenate([worse for _, worse in losses.values()]))

    def fits(bound: float) -> bool:
        return within(_narrowest_under(losses, bound), problem.costs, problem.limits)

    # Under the greatest bound every group is at its narrowest.
    least = bounds[bisect_left(bounds[:-1], True, key=fits)]
    return problem.project(_narrowest_under(losses, least))


def _narrowest_under(losses: Levels, bound: float) -> Allocation:
    """Returns each group's first level at or below the bound; the widest where none is (its ceiling is below dense)."""
    chosen = {}
    for name, (levels, worse) in losses.items():
        under = np.flatnonzero(worse <= bound)
        chosen[name] = int(levels[under[0] if len(under) else -1])
    return Allocation(chosen)


class Threshold(FixedListSearcher):
    """Proposes the threshold allocation of each criterion's curves."""

    uses_curves = True
    needs_curves = True

    def _list(self, problem: SearchProblem) -> list[Allocation]:
        return [threshold_allocation(problem, curves) for curves in measured_curves(problem, "threshold")]
