"""What every searcher of the registry proposes; a new row is tested without touching this file."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.costs import within
from autoprune.core.recipe import Rounds
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base.searcher import SearchProblem
from tests.contracts.searcher_cases import (
    CASES,
    DETERMINISTIC,
    IN_ROUNDS,
    NAMES,
    NEEDS_CURVES,
    UNFILLED,
    candidates,
    case,
    events,
    make,
    tiny,
)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("case_name", CASES)
def test_every_proposal_is_new_and_inside_the_space_and_the_limits(name: str, case_name: str) -> None:
    if case_name == "no curves" and name in NEEDS_CURVES:
        pytest.skip("refuses to run without curves")
    problem = case(case_name)
    found = candidates(make(name, problem), slots=3, failures=0.2)
    assert [each.number for each in found] == list(range(len(found)))
    assert 1 <= len(found) <= problem.trials
    assert len({each.key for each in found}) == len(found)
    for each in found:
        assert each.allocation in problem.space
        assert within(each.allocation, problem.costs, each.limits)
        if name not in IN_ROUNDS:
            assert each.limits == problem.limits
            assert each.recipe == problem.recipe
            assert (each.role, each.parent) == ("final", None)


@pytest.mark.parametrize("searcher_name", sorted(IN_ROUNDS))
@pytest.mark.parametrize("case_name", CASES)
def test_rounds_go_down_to_the_limits_each_from_a_scored_trial_that_is_nowhere_narrower(
    searcher_name: str, case_name: str
) -> None:
    problem = case(case_name)
    searcher = make(searcher_name, problem)
    told: dict[int, Trial] = {}
    before = dict.fromkeys(problem.limits, math.inf)
    for event in events(searcher, slots=3, failures=0.1):
        if isinstance(event, Trial):
            told[event.number] = event
            continue
        assert all(limit <= event.limits[kind] <= before[kind] for kind, limit in problem.limits.items())
        before = dict(event.limits)
        if event.role == "final":
            assert event.limits == problem.limits
        if event.parent is not None:
            assert event.parent in searcher.parents
            parent = told[event.parent]
            assert parent.score
            assert all(width <= parent.candidate.allocation[group] for group, width in event.allocation.items())
    assert searcher.parents == frozenset()
    ended_well = any(trial.candidate.role == "final" and trial.score for trial in told.values())
    assert ended_well == (searcher.failure is None)


def test_only_searchers_in_rounds_have_parents_and_others_say_that_rounds_are_not_for_them(name: str) -> None:
    problem = replace(case("plain"), rounds=Rounds())
    searcher = make(name, problem)
    unused = any("does not work in rounds" in remark for remark in searcher.remarks)
    assert unused == (name not in IN_ROUNDS)
    assert make(name, replace(problem, rounds=None, trials=1000)).remarks == ()
    if name not in IN_ROUNDS:
        found = candidates(searcher)
        assert searcher.parents == frozenset()
        assert searcher.failure is None
        assert all(each.parent is None for each in found)


def test_an_allocation_keeps_the_order_of_the_space(name: str) -> None:
    problem = case("plain")
    for each in candidates(make(name, problem)):
        assert isinstance(each.allocation, Allocation)
        assert tuple(each.allocation) == problem.space.names


def test_a_small_space_is_exhausted_not_searched_for_ever(name: str) -> None:
    problem = tiny()
    space = problem.space
    every = itertools.product(*(space.bounds[group].levels() for group in space.names))
    move = problem.repair if name in UNFILLED | IN_ROUNDS else problem.project
    realised = {move(dict(zip(space.names, widths, strict=True))) for widths in every}
    found = {each.allocation for each in candidates(make(name, problem)) if each.role == "final"}
    assert found <= realised
    assert len(realised) < problem.trials
    if name not in DETERMINISTIC | IN_ROUNDS:
        assert found == realised


def test_two_seeds_search_differently_and_one_seed_alike(name: str) -> None:
    problem = case("plain")
    first, again = (candidates(make(name, problem)) for _ in range(2))
    other = candidates(make(name, replace(problem, seed=1)))
    assert first == again
    assert (first == other) == (name in DETERMINISTIC)


def test_no_two_searchers_propose_the_same_sequence() -> None:
    problem = case("plain")
    found = {each: [c.allocation for c in candidates(make(each, problem))] for each in NAMES}
    assert all(found[a] != found[b] for a, b in itertools.combinations(NAMES, 2))


def test_what_they_leave_of_the_limits_fits_no_further_step(name: str) -> None:
    """Where a searcher fills, no group of a proposal could be one level wider; `UNFILLED` ones leave slack somewhere.

    Under a parent the group could not, where it is narrower than that.
    """
    problem = case("two limits")
    found = candidates(make(name, problem))
    assert all(_fills(problem, each, found) for each in found) == (name not in UNFILLED)


def _fills(problem: SearchProblem, candidate: Candidate, asked: list[Candidate]) -> bool:
    widest = problem.space.widest() if candidate.parent is None else asked[candidate.parent].allocation
    limits = {kind: candidate.limits[kind] for kind in problem.limits}
    under = replace(problem, space=problem.space.narrowed(widest), limits=limits)
    return under.project(candidate.allocation) == candidate.allocation
