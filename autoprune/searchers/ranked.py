"""No evaluation at all: every structure of the network in one ranking, by score per unit of the budget that it costs.

Source: Molchanov et al. 2017, arXiv:1611.06440, rank the filters of all layers together after dividing each layer's
scores by their norm, and weigh them against the FLOPs that each costs. Here a group's scores are divided by their mean,
so that layers with large weights are not spared for that alone, and then by what one structure of the group costs in
the dense network, as a share of each limit. The ranking is cut where the limits hold, and what they leave is filled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.costs import within
from autoprune.core.projection import check_feasible
from autoprune.errors import UserError
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.sequential import SequentialSearcher

_LEAST = 1e-12


def score_rates(problem: SearchProblem) -> dict[str, NDArray[np.float64]]:
    """Per group, its structures' normalised scores per share of the limits that one of them costs, descending.

    Raises:
        UserError: a group has no scores, or not one for each structure.
    """
    dense = problem.space.dense()
    slopes = [(problem.costs.slopes(dense, kind), limit) for kind, limit in problem.limits.items()]
    rates = {}
    for group in problem.space.groups:
        scores = problem.importance.get(group.name)
        if scores is None or len(scores) != group.width:
            given = "none" if scores is None else str(len(scores))
            raise UserError(
                f"searcher 'ranked' needs {group.width} scores for group {group.name!r} but has {given}; "
                "choose a pruner that scores structures, or another searcher"
            )
        price = sum(slope[group.name] / limit for slope, limit in slopes)
        rates[group.name] = np.sort(scores)[::-1] / max(float(scores.mean()), _LEAST) / max(price, _LEAST)
    return rates


def ranked_allocation(problem: SearchProblem) -> Allocation:
    """As many of the highest ranked structures as the limits allow, with what is left filled.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
        UserError: a group has no scores, or not one for each structure.
    """
    check_feasible(problem.space, problem.costs, problem.limits)
    rates = score_rates(problem)
    cuts = np.unique(np.concatenate(list(rates.values())))

    def above(cut: int) -> Allocation:
        kept = {name: int(np.count_nonzero(rate > cuts[cut])) for name, rate in rates.items()}
        return Allocation({name: problem.space.bounds[name].below(width) for name, width in kept.items()})

    outside, inside = -1, len(cuts) - 1  # above the last cut nothing is left but the narrowest
    while inside - outside > 1:
        middle = (outside + inside) // 2
        fits = within(above(middle), problem.costs, problem.limits)
        outside, inside = (outside, middle) if fits else (middle, inside)
    return problem.project(above(inside))


class Ranked(SequentialSearcher):
    """Proposes the ranked allocation, once."""

    uses_curves = False
    handles_settings = False
    is_random = False

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._allocation = ranked_allocation(problem)

    def _next(self) -> Allocation | None:
        return self._history.first_new([self._allocation])
