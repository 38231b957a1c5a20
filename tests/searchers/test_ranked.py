from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.costs import within
from autoprune.errors import BudgetInfeasible, UserError
from autoprune.searchers.ranked import Ranked, ranked_allocation, score_rates
from tests.searchers.landscapes import make_problem

PROBLEM = make_problem()


def test_scores_are_divided_by_their_mean_and_by_what_a_structure_costs() -> None:
    rates = score_rates(PROBLEM)
    for group in PROBLEM.space.groups:
        scores = PROBLEM.importance[group.name]
        dense = PROBLEM.costs.cost({}, "flops")
        one_less = PROBLEM.costs.cost({group.name: group.width - 1}, "flops")
        price = (dense - one_less) / PROBLEM.limits["flops"]
        assert np.allclose(sorted(rates[group.name]), sorted(scores / scores.mean() / price))


def test_no_structure_is_kept_before_a_better_one_of_another_group() -> None:
    """Apart from what floors hold and the last few that the projection fills in."""
    found, rates = ranked_allocation(PROBLEM), score_rates(PROBLEM)
    inner = [n for n in PROBLEM.space.names if PROBLEM.space.bounds[n].lowest < found[n] < PROBLEM.costs.widths[n]]
    assert len(inner) > 4
    worst_kept = min(rates[name][found[name] - 2] for name in inner)
    best_removed = max(rates[name][min(found[name] + 1, len(rates[name]) - 1)] for name in inner)
    assert worst_kept > best_removed


def test_the_scale_of_a_groups_scores_does_not_matter() -> None:
    louder = {**PROBLEM.importance, "s1": PROBLEM.importance["s1"] * 100}
    assert ranked_allocation(replace(PROBLEM, importance=louder)) == ranked_allocation(PROBLEM)


def test_it_proposes_one_candidate_that_uses_the_budget() -> None:
    (only,) = Ranked(PROBLEM).ask(9)
    assert within(only.allocation, PROBLEM.costs, PROBLEM.limits)
    assert PROBLEM.project(only.allocation) == only.allocation


def test_missing_scores_are_named() -> None:
    with pytest.raises(UserError, match=r"needs 16 scores for group 's0' but has none"):
        Ranked(replace(PROBLEM, importance={}))
    with pytest.raises(UserError, match=r"needs 16 scores for group 's0' but has 3"):
        Ranked(replace(PROBLEM, importance={**PROBLEM.importance, "s0": np.ones(3)}))


def test_an_unreachable_budget_is_refused() -> None:
    with pytest.raises(BudgetInfeasible, match="cannot be met"):
        ranked_allocation(replace(PROBLEM, limits={"flops": 1}))
