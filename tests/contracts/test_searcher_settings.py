"""What every searcher of the registry makes of settings that are searched along."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autoprune.core.settings import FINETUNE, Choice, defaults
from autoprune.core.trial import Trial
from autoprune.registry import resolve
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.warm_started import starts
from tests.contracts.searcher_cases import IN_ROUNDS, NAMES, candidates, case, events, make, tiny, with_settings


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


HANDLING = [name for name in NAMES if resolve("searcher", name).handles_settings]


def test_these_search_settings() -> None:
    assert HANDLING == ["auto", "cmaes", "evolution", "gp", "random", "tpe"]


def concerned(name: str, problem: SearchProblem) -> list[str]:
    """The settings that a searcher's candidates name: rounds say themselves how they train."""
    return [key for key in problem.space.settings if name not in IN_ROUNDS or not key.startswith(FINETUNE)]


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_every_value_lies_in_its_dimension_and_no_candidate_comes_twice(name: str, slots: int) -> None:
    problem = case("settings")
    found = candidates(make(name, problem), slots, failures=0.2)
    assert found
    assert len({each.key for each in found}) == len(found)
    for each in found:
        assert list(each.settings) == concerned(name, problem)
        assert all(value in problem.space.settings[key] for key, value in each.settings.items())


def test_who_does_not_search_settings_keeps_the_defaults_and_proposes_as_without_them(name: str) -> None:
    problem = case("settings")
    found = candidates(make(name, problem))
    values = defaults(problem.space.settings)
    kept = {key: values[key] for key in concerned(name, problem)}
    assert (all(each.settings == kept for each in found)) == (name not in HANDLING)
    if name not in HANDLING:
        plain = make(name, case("plain")).ask(1)[0]
        assert found[0].allocation == plain.allocation


@pytest.mark.parametrize("name", HANDLING)
def test_who_searches_settings_tries_several_values_of_each(name: str) -> None:
    problem = replace(case("settings"), trials=40)
    found = candidates(make(name, problem))
    for key, dimension in problem.space.settings.items():
        assert len({each.settings[key] for each in found}) >= (2 if isinstance(dimension, Choice) else 4), key


@pytest.mark.parametrize("name", sorted({*HANDLING} - {"random"}))
def test_the_starts_are_evaluated_under_the_default_settings(name: str) -> None:
    problem = case("settings")
    given = starts(problem)
    found = make(name, problem).ask(len(given))
    assert tuple(each.allocation for each in found) == given
    assert all(each.settings == defaults(problem.space.settings) for each in found)


@pytest.mark.parametrize("slots", [1, 4])
def test_a_replay_from_written_records_goes_on_as_the_unbroken_run_did(name: str, slots: int) -> None:
    problem = case("settings")
    whole = list(events(make(name, problem), slots, failures=0.2))
    replayed = make(name, problem)
    for event in whole:
        if isinstance(event, Trial):
            replayed.tell(Trial.from_json(json.loads(json.dumps(event.to_json())), event.candidate))
        else:
            assert list(replayed.ask(1)) == [event]


@pytest.mark.parametrize("name", HANDLING)
def test_few_allocations_are_evaluated_again_under_other_settings(name: str) -> None:
    problem = with_settings(tiny())
    found = candidates(make(name, problem))
    assert len(found) == problem.trials
    assert len({each.allocation for each in found}) < len(found)
