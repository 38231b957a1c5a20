from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.searchers import evolution
from autoprune.searchers.evolution import Evolution
from autoprune.searchers.knapsack import standard_starts
from tests.scores import scored
from tests.searchers.landscapes import make_problem, with_curves

PROBLEM = with_curves(make_problem())


def told(candidate: Candidate, loss: float) -> Trial:
    return Trial(candidate, scored(loss, 0.5, 10))


def moved(candidate: Candidate, parent: Candidate) -> int:
    return sum(candidate.allocation[name] != parent.allocation[name] for name in parent.allocation)


def test_the_starts_come_first() -> None:
    given = standard_starts(PROBLEM)
    assert tuple(c.allocation for c in Evolution(PROBLEM).ask(len(given))) == given


def test_offspring_are_few_trades_away_from_the_best() -> None:
    searcher = Evolution(PROBLEM)
    given = searcher.ask(len(standard_starts(PROBLEM)))
    for candidate in given:
        searcher.tell(told(candidate, 1.0 - 0.5 * (candidate.number == 2)))
    offspring = searcher.ask(20)
    assert np.median([moved(each, given[2]) for each in offspring]) <= 4
    assert np.median([moved(each, given[0]) for each in offspring]) > 4


def test_only_a_better_result_takes_the_place_of_the_best() -> None:
    problem = replace(PROBLEM, trials=200)
    searcher = Evolution(problem)
    given = searcher.ask(len(standard_starts(problem)))
    for candidate in given:
        searcher.tell(told(candidate, 0.5))
    worse, better = searcher.ask(2)
    searcher.tell(told(worse, 0.6))
    searcher.tell(Trial(searcher.ask(1)[0], Failure("nan", "not a number")))
    after_worse = searcher.ask(20)
    near_first = [moved(each, given[0]) for each in after_worse]
    assert np.median(near_first) < np.median([moved(each, worse) for each in after_worse])
    searcher.tell(told(better, 0.4))
    near_better = [moved(each, better) for each in searcher.ask(20)]
    assert np.median(near_first) <= 4
    assert np.median(near_better) <= 4


def test_trades_reach_less_far_after_failures_than_after_successes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolution, "standard_starts", lambda problem: (problem.project(problem.space.widest()),))

    def stride(rising: bool) -> float:
        problem = replace(PROBLEM, trials=100)
        searcher = Evolution(problem)
        parent = searcher.ask(1)[0]
        searcher.tell(told(parent, 100.0))
        for number in range(1, 25):
            (candidate,) = searcher.ask(1)
            searcher.tell(told(candidate, 100.0 + number if rising else 100.0 - number))
            parent = parent if rising else candidate
        found = searcher.ask(30)
        return max(
            abs(c.allocation[n] - w) / problem.costs.widths[n] for c in found for n, w in parent.allocation.items()
        )

    assert stride(rising=True) < 0.2 < stride(rising=False)
