"""What every searcher of the registry must keep; a new row is tested without touching this file."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.budget import within
from autoprune.core.costs import CostKind, CostTable, CostTerm, Count
from autoprune.core.space import Bounds, Group, SearchSpace
from autoprune.core.trial import Candidate, Failure, Score, Trial
from autoprune.registry import SEARCHERS, resolve
from autoprune.searchers.base import Searcher, SearchProblem
from tests.searchers.landscapes import make_problem, with_curves

NAMES = sorted(SEARCHERS)
DETERMINISTIC = {"uniform", "threshold", "knapsack", "ranked"}
"""Searchers that draw nothing, so that the seed changes nothing."""


def few_groups(problem: SearchProblem, count: int) -> SearchProblem:
    """The same network with only the first groups free, the others dense."""
    space = SearchSpace(
        problem.space.groups[:count], {g.name: problem.space.bounds[g.name] for g in problem.space.groups[:count]}
    )
    return with_curves(replace(problem, space=space, curves={}))


def narrow(problem: SearchProblem) -> SearchProblem:
    least = problem.costs.cost(problem.space.narrowest(), "flops")
    return replace(problem, limits={"flops": int(least * 1.02)})


def tiny() -> SearchProblem:
    """Two groups of three levels each: a handful of maximal allocations."""
    problem = few_groups(make_problem(1, streams=False, keep=0.8), 2)
    bounds = {g.name: Bounds(g.width // 2, g.width, g.width // 4) for g in problem.space.groups}
    return with_curves(replace(problem, space=replace(problem.space, bounds=bounds), curves={}))


def may_go_whole(problem: SearchProblem) -> SearchProblem:
    """The same groups, of which every other one may go whole, but no residual stream."""
    groups = tuple(replace(group, least=(i + 1) % 2) for i, group in enumerate(problem.space.groups))
    bounds = {g.name: replace(problem.space.bounds[g.name], floor=0 if g.removable else 2) for g in groups}
    return with_curves(replace(problem, space=SearchSpace(groups, bounds), curves={}))


def branches() -> SearchProblem:
    """Nine branches, of unequal costs, that are kept or go whole."""
    groups = tuple(Group(f"b{i}", 1, (f"b{i}",), ("Conv2d",), least=0) for i in range(9))
    terms = [CostTerm("flops", g.name, 10 + i % 4, Count(0, {g.name: 1})) for i, g in enumerate(groups)]
    costs = CostTable([CostTerm("flops", "stem", 7), *terms], {g.name: 1 for g in groups})
    space = SearchSpace(groups, {g.name: Bounds(0, 1) for g in groups})
    importance = {g.name: np.array([1.0 + i % 5]) for i, g in enumerate(groups)}
    return with_curves(SearchProblem(space, costs, {"flops": 60}, 24, 0, importance=importance))


def case(name: str) -> SearchProblem:
    problem = with_curves(make_problem(trials=24))
    two: dict[CostKind, int] = {"flops": problem.limits["flops"], "params": int(0.4 * problem.costs.dense()["params"])}
    return {
        "plain": lambda: problem,
        "accuracy": lambda: replace(problem, objective="accuracy"),
        "no curves": lambda: replace(problem, curves={}),
        "two limits": lambda: replace(problem, limits=two),
        "just above the least": lambda: narrow(problem),
        "steps of 8": lambda: with_curves(make_problem(step=8, trials=24)),
        "one group": lambda: few_groups(make_problem(keep=0.99, trials=24), 1),
        "tiny": tiny,
        "may go whole": lambda: may_go_whole(problem),
        "narrowest of what may go whole": lambda: narrow(may_go_whole(problem)),
        "branches": branches,
    }[name]()


CASES = [
    "plain", "accuracy", "no curves", "two limits", "just above the least", "steps of 8", "one group", "tiny",
    "may go whole", "narrowest of what may go whole", "branches",
]  # fmt: skip
NEEDS_CURVES = {"threshold", "knapsack"}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(name: str, problem: SearchProblem) -> Searcher:
    searcher: Searcher = resolve("searcher", name)(problem)
    return searcher


def outcome(candidate: Candidate, failing: bool = False) -> Trial:
    if failing:
        return Trial(candidate, Failure("nan", "the loss is not a number"))
    loss = sum(i % 3 / max(width, 0.5) for i, width in enumerate(candidate.allocation.values(), 1))
    return Trial(candidate, Score(loss, 1 / (1 + loss), 10))


def events(searcher: Searcher, slots: int = 1, seed: int = 0, failures: float = 0.0) -> Iterator[Candidate | Trial]:
    """Candidates as they are asked and trials as they are told, at most `slots` running, told in a random order."""
    rng = np.random.default_rng(seed)
    running: list[Candidate] = []
    while True:
        for candidate in searcher.ask(slots - len(running)):
            assert candidate.number < 100, "it goes on after as many trials as the problem allows"
            running.append(candidate)
            yield candidate
        if not running:
            return
        trial = outcome(running.pop(int(rng.integers(len(running)))), bool(rng.random() < failures))
        searcher.tell(trial)
        yield trial


def candidates(searcher: Searcher, slots: int = 1, seed: int = 0, failures: float = 0.0) -> list[Candidate]:
    return [event for event in events(searcher, slots, seed, failures) if isinstance(event, Candidate)]


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
        assert within(each.allocation, problem.costs, problem.limits)
        assert each.limits == problem.limits
        assert each.recipe == problem.recipe
        assert each.role == "final"


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


@pytest.mark.parametrize("kept", [3, 11, 25])
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


def test_a_small_space_is_exhausted_not_searched_for_ever(name: str) -> None:
    problem = tiny()
    space = problem.space
    every = itertools.product(*(space.bounds[group].levels() for group in space.names))
    realised = {problem.project(dict(zip(space.names, widths, strict=True))) for widths in every}
    found = {each.allocation for each in candidates(make(name, problem))}
    assert found <= realised
    assert len(realised) < problem.trials
    if name not in DETERMINISTIC:
        assert found == realised


def test_three_hundred_groups_take_seconds_not_minutes(name: str) -> None:
    problem = with_curves(make_problem(100, streams=False, trials=8))
    started = time.perf_counter()
    found = candidates(make(name, problem), slots=4)
    assert found
    assert len(found[0].allocation) == 300
    assert time.perf_counter() - started < 60  # about 5 s on a free core


def test_an_allocation_keeps_the_order_of_the_space(name: str) -> None:
    problem = case("plain")
    for each in candidates(make(name, problem)):
        assert isinstance(each.allocation, Allocation)
        assert tuple(each.allocation) == problem.space.names
