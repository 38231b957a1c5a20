"""What every searcher of the registry proposes; a new row is tested without touching this file."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.budget import within
from autoprune.core.trial import Trial
from tests.contracts.searcher_cases import (
    CASES,
    DETERMINISTIC,
    NAMES,
    NEEDS_CURVES,
    ROUNDED,
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
        if name not in ROUNDED:
            assert each.limits == problem.limits
            assert each.recipe == problem.recipe
            assert (each.role, each.parent) == ("final", None)


@pytest.mark.parametrize("case_name", CASES)
@pytest.mark.parametrize("rounded", sorted(ROUNDED))
def test_rounds_go_down_to_the_limits_each_from_a_scored_trial_of_the_last(rounded: str, case_name: str) -> None:
    problem = case(case_name)
    told: dict[int, Trial] = {}
    searcher = make(rounded, problem)
    for event in events(searcher, slots=3, failures=0.1):
        if isinstance(event, Trial):
            told[event.number] = event
            continue
        assert (event.role == "final") <= (event.limits == problem.limits)
        assert all(event.limits[kind] >= limit for kind, limit in problem.limits.items())
        if event.parent is not None:
            parent = told[event.parent]
            assert parent.score
            assert all(width <= parent.candidate.allocation[name] for name, width in event.allocation.items())
    gave_up = any("nothing to go on from" in remark for remark in searcher.remarks)
    assert any(trial.candidate.role == "final" and trial.score for trial in told.values()) != gave_up


def test_an_allocation_keeps_the_order_of_the_space(name: str) -> None:
    problem = case("plain")
    for each in candidates(make(name, problem)):
        assert isinstance(each.allocation, Allocation)
        assert tuple(each.allocation) == problem.space.names


def test_a_small_space_is_exhausted_not_searched_for_ever(name: str) -> None:
    problem = tiny()
    space = problem.space
    every = itertools.product(*(space.bounds[group].levels() for group in space.names))
    if name in ROUNDED:
        pytest.skip("its candidates keep the limits of their rounds")
    move = problem.repair if name in UNFILLED else problem.project
    realised = {move(dict(zip(space.names, widths, strict=True))) for widths in every}
    found = {each.allocation for each in candidates(make(name, problem))}
    assert found <= realised
    assert len(realised) < problem.trials
    if name not in DETERMINISTIC:
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
    """Where a searcher fills, no group of a proposal could be one level wider; `UNFILLED` ones leave room somewhere."""
    problem = case("two limits")
    found = [each.allocation for each in candidates(make(name, problem))]
    assert all(problem.project(each) == each for each in found) == (name not in UNFILLED)
