"""No evaluation at all: every structure of the network in one ranking, by score per unit of the budget that it costs.

Source: Molchanov et al. 2017, arXiv:1611.06440, rank the filters of all layers together after dividing each layer's
scores by their norm, and weigh them against the FLOPs that each costs. Here a group's scores are divided by their mean,
so that layers with large weights are not spared for that alone, and then by what one structure of the group costs in
the dense network, as a share of each limit. The ranking is cut where the limits hold, and what they leave is filled.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.costs import within
from autoprune.errors import UserError
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.sequential import FixedListSearcher

_LEAST = 1e-12


def score_rates(problem: SearchProblem) -> dict[str, NDArray[np.float64]]:
    """Returns `[width]` normalised scores by group, per share of the limits that one structure costs, descending.

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
    """Returns as many of the highest ranked structures as the limits allow, with what is left filled.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
        UserError: a group has no scores, or not one for each structure.
    """
    rates = score_rates(problem)
    cuts = np.unique(np.concatenate(list(rates.values())))

    def above(cut: int) -> Allocation:
        kept = {name: int(np.count_nonzero(rate > cuts[cut])) for name, rate in rates.items()}
        return Allocation({name: problem.space.bounds[name].below(width) for name, width in kept.items()})

    # Above the last cut nothing is left but the narrowest.
    first = bisect_left(range(len(cuts) - 1), True, key=lambda cut: within(above(cut), problem.costs, problem.limits))
    return problem.project(above(first))


class Ranked(FixedListSearcher):
    """Proposes the ranked allocation, once."""

    uses_curves = False

    def _list(self, problem: SearchProblem) -> list[Allocation]:
        return [ranked_allocation(problem)]
