"""Every searcher of the registry ends, whatever becomes of its candidates, and soon enough."""

from __future__ import annotations

import time
from functools import cache

import pytest

from autoprune.searchers.base.searcher import SearchProblem
from tests.contracts.searcher_cases import NAMES, candidates, case, make
from tests.searchers.landscapes import make_problem, with_curves


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_it_finishes_with_any_number_of_slots_and_stays_finished(name: str, slots: int) -> None:
    problem = case("plain")
    searcher = make(name, problem)
    assert len(candidates(searcher, slots, failures=0.1)) <= problem.trials
    assert not searcher.ask(1)
    assert not searcher.ask(16)


def test_a_run_in_which_everything_fails_ends(name: str) -> None:
    problem = case("plain")
    assert 1 <= len(candidates(make(name, problem), slots=2, failures=1.0)) <= problem.trials


@cache
def three_hundred_groups() -> SearchProblem:
    return with_curves(make_problem(100, streams=False, step=4, trials=8))  # its curves take seconds to make


def test_three_hundred_groups_take_seconds_not_minutes(name: str) -> None:
    problem = three_hundred_groups()
    started = time.process_time()
    found = candidates(make(name, problem), slots=4)
    assert found
    assert len(found[0].allocation) == 300
    assert time.process_time() - started < 30
