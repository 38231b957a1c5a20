from __future__ import annotations

import pytest

from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.searchers.base.sequential import SequentialSearcher
from autoprune.searchers.controls import Random
from autoprune.searchers.knapsack import standard_starts
from autoprune.searchers.optuna_samplers import FIRST, Gp, Tpe
from tests.scores import scored
from tests.searchers.landscapes import make_problem, with_curves

PROBLEM = with_curves(make_problem(trials=24))


def test_failures_teach_nothing_but_are_passed_over() -> None:
    searcher = Tpe(PROBLEM)
    found: list[Candidate] = []
    while asked := searcher.ask(1):
        found.extend(asked)
        searcher.tell(Trial(asked[0], Failure("exception", "broken")))
    first = len(standard_starts(PROBLEM))
    assert [c.allocation for c in found[first:]] == [c.allocation for c in Random(PROBLEM).ask(24)[first:]]


@pytest.mark.parametrize("kind", [Tpe, Gp])
def test_the_starts_come_first_then_draws_then_proposals(kind: type[SequentialSearcher]) -> None:
    given = standard_starts(PROBLEM)
    searcher = kind(PROBLEM)
    first = searcher.ask(len(given))
    assert tuple(candidate.allocation for candidate in first) == given
    for candidate in first:
        searcher.tell(Trial(candidate, scored(1.0, 0.5, 10)))
    random = Random(PROBLEM).ask(24)
    drawn = searcher.ask(FIRST - len(given))
    assert [each.allocation for each in drawn] == [each.allocation for each in random[len(given) : FIRST]]
    for candidate in drawn:
        searcher.tell(Trial(candidate, scored(1.0, 0.5, 10)))
    assert searcher.ask(1)[0].allocation != random[FIRST].allocation
