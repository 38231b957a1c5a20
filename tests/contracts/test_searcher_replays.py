"""Every searcher of the registry is a function of what it was asked and told, and so comes back from a ledger."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.core.ledger import Ledger, read_history
from autoprune.core.trial import Candidate, Trial
from autoprune.running.search.loop import replay
from tests.contracts.searcher_cases import NAMES, case, events, make, outcome


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_asking_for_many_is_asking_for_one_many_times(name: str) -> None:
    problem = case("plain")
    one, many = make(name, problem), make(name, problem)
    for count in (1, 5, 3, 9, 20):
        batch = list(many.ask(count))
        assert [each for _ in range(count) for each in one.ask(1)] == batch
        for candidate in reversed(batch[1:]):  # the first of each batch stays unanswered
            one.tell(outcome(candidate, candidate.number % 4 == 0))
            many.tell(outcome(candidate, candidate.number % 4 == 0))


def test_asking_for_none_changes_nothing(name: str) -> None:
    problem = case("plain")
    quiet, asked = make(name, problem), make(name, problem)
    for _ in range(12):
        assert not asked.ask(0)
        left, right = quiet.ask(1), asked.ask(1)
        assert list(left) == list(right)
        for candidate in left:
            quiet.tell(outcome(candidate))
            asked.tell(outcome(candidate))


@pytest.mark.parametrize("kept", [3, 11, 25, 40])
def test_a_replay_goes_on_as_the_unbroken_run_did(name: str, kept: int) -> None:
    problem = case("plain")
    whole = list(events(make(name, problem), slots=4, failures=0.2))
    replayed = make(name, problem)
    for index, event in enumerate(whole):
        if isinstance(event, Trial):
            again = (
                event if index >= kept else Trial.from_json(json.loads(json.dumps(event.to_json())), event.candidate)
            )
            replayed.tell(again)
        else:
            if index >= kept:
                replayed.ask(0)
            assert list(replayed.ask(1)) == [event]


def test_what_is_told_of_an_unknown_candidate_is_refused(name: str) -> None:
    searcher = make(name, case("plain"))
    (first,) = searcher.ask(1)
    with pytest.raises(ValueError, match="none of the 1 candidates"):
        searcher.tell(outcome(replace(first, number=7)))
    searcher.tell(outcome(first))
    with pytest.raises(ValueError, match="told before"):
        searcher.tell(outcome(first))


@pytest.mark.parametrize("broken_off", [5, 30, 43])
def test_it_comes_back_from_a_ledger_with_candidates_still_open(name: str, broken_off: int, tmp_path: Path) -> None:
    problem = case("plain")
    unbroken = make(name, problem)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.write("started", version=1)
        for event in itertools.islice(events(unbroken, slots=5, failures=0.2), broken_off):
            if isinstance(event, Candidate):
                ledger.asked(event)
            else:
                ledger.told(event)
    history, restored = read_history(tmp_path), make(name, problem)
    told = replay(history, restored)
    assert [t.number for t in told] == [r["number"] for r in history.of("told")]
    for candidate in reversed(history.open_candidates()):
        for searcher in (unbroken, restored):
            searcher.tell(outcome(candidate))
        assert list(restored.ask(2)) == list(unbroken.ask(2))
