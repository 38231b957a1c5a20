from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from autoprune.core.settings import Choice
from autoprune.core.trial import Candidate, Failure, Setting, Trial
from autoprune.searchers.auto import Auto
from autoprune.searchers.knapsack import standard_starts
from tests.scores import scored
from tests.searchers.landscapes import evaluate, planted

LANDSCAPE = planted("interactions", 3, True, pairs=0.9)
PROBLEM = replace(LANDSCAPE.problem, trials=80)


def first_candidates(searcher: Auto, count: int) -> list[Candidate]:
    """The first candidates, each told."""
    found = list(searcher.ask(count))
    for candidate in found:
        searcher.tell(evaluate(LANDSCAPE, candidate))
    return found


def test_it_begins_with_every_start() -> None:
    first = first_candidates(Auto(PROBLEM), len(standard_starts(PROBLEM)))
    assert [candidate.allocation for candidate in first] == list(standard_starts(PROBLEM))


def test_what_it_proposes_is_far_better_than_a_blind_mutant() -> None:
    """Half of what follows the starts is better than all of these."""
    searcher = Auto(PROBLEM)
    first = first_candidates(searcher, len(standard_starts(PROBLEM)))
    least = min(LANDSCAPE.true(candidate.allocation) for candidate in first)
    better = []
    for _ in range(20):
        (candidate,) = first_candidates(searcher, 1)
        better.append(LANDSCAPE.true(candidate.allocation) < least)
    assert sum(better) >= 10


def test_many_slots_do_not_crowd_one_place() -> None:
    """What still runs is believed, so the next looks elsewhere."""
    searcher = Auto(PROBLEM)
    first_candidates(searcher, 30)
    asked = [candidate.allocation for candidate in searcher.ask(8)]
    assert len(set(asked)) == 8
    apart = [sum(a[n] != b[n] for n in a) for i, a in enumerate(asked) for b in asked[:i]]
    assert min(apart) >= 2


def test_failures_teach_nothing_and_stop_nothing() -> None:
    searcher, first = Auto(PROBLEM), len(standard_starts(PROBLEM))
    for number in range(40):
        (candidate,) = searcher.ask(1)
        failed = Failure("nan", "loss nan")
        searcher.tell(Trial(candidate, failed) if number % 2 and number > first else evaluate(LANDSCAPE, candidate))


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_values_that_have_no_logarithm_are_taken_as_they_are(value: float) -> None:
    searcher = Auto(PROBLEM)
    for number in range(20):
        (candidate,) = searcher.ask(1)
        searcher.tell(Trial(candidate, scored(value + 0.1 * number, 0.5, 10)))


def test_what_a_setting_does_is_learnt_from_one_allocation_and_taken_to_hold_for_all() -> None:
    settings = {"criterion": Choice(("l1", "l2", "fpgm")), "combine": Choice(("mean", "max"))}
    worth = {"l1": 1.0, "l2": 3.0, "fpgm": 0.5, "mean": 1.0, "max": 0.8}
    searcher = Auto(replace(PROBLEM, space=replace(PROBLEM.space, settings=settings)))

    def factor(chosen: Mapping[str, Setting]) -> float:
        return worth[str(chosen["criterion"])] * worth[str(chosen["combine"])]

    for _ in range(40):
        (candidate,) = searcher.ask(1)
        told = evaluate(LANDSCAPE, candidate)
        searcher.tell(Trial(candidate, scored(told.score.loss * factor(candidate.settings), 0.5, 10)))
    tried = [each.settings for each in searcher._history.asked]
    assert {each["criterion"] for each in tried} == {"l1", "l2", "fpgm"}
    for each in tried:
        assert searcher._surrogate._factor(each) == pytest.approx(factor(each))
