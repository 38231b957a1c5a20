"""What every searcher must do, as tests to inherit."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.costs import within
from autoprune.core.ledger import Ledger, read_history
from autoprune.core.recipe import Rounds
from autoprune.core.settings import FINETUNE, Choice, defaults
from autoprune.core.trial import Candidate, Trial
from autoprune.errors import UserError
from autoprune.running.search.loop import replay
from autoprune.searchers.base.searcher import Searcher, SearchProblem
from autoprune.testing.problems import (
    CASES,
    candidates,
    case,
    events,
    make_problem,
    outcome,
    tiny,
    with_curves,
    with_settings,
)

_SECONDS = 30


class SearcherContract:
    """A searcher proposes inside the space and the budget, survives failures in any order, ends, and can be replayed.

    What its class attributes say of it (see `Searcher`) must be so.

    Attributes:
        searcher: the class under test.
    """

    searcher: ClassVar[type[Searcher]]

    # Proposals

    @pytest.mark.parametrize("case_name", CASES)
    def test_every_proposal_is_new_and_inside_the_space_and_the_limits(self, case_name: str) -> None:
        """Numbers count from 0; no candidate comes twice; each keeps its limits, which are the run's outside of rounds.

        A searcher that needs sensitivity curves says so where there are none.
        """
        problem = case(case_name)
        if not problem.curves and self.searcher.needs_curves:
            with pytest.raises(UserError, match="sensitivity curves"):
                self.searcher(problem)
            return
        found = candidates(self.searcher(problem), slots=3, failures=0.2)
        assert [each.number for each in found] == list(range(len(found)))
        assert 1 <= len(found) <= trials_of(problem)
        assert len({each.key for each in found}) == len(found)
        for each in found:
            assert each.allocation in problem.space
            assert within(each.allocation, problem.costs, each.limits)
            if not self.searcher.works_in_rounds:
                assert each.limits == problem.limits
                assert each.recipe == problem.recipe
                assert (each.role, each.parent) == ("final", None)

    @pytest.mark.parametrize("case_name", CASES)
    def test_rounds_go_down_to_the_limits_from_scored_trials_that_are_nowhere_narrower(self, case_name: str) -> None:
        """Limits never rise from round to round; final candidates keep the run's; a parent is announced and scored."""
        if not self.searcher.works_in_rounds:
            pytest.skip("does not work in rounds")
        problem = case(case_name)
        searcher = self.searcher(problem)
        told: dict[int, Trial] = {}
        before: dict[str, float] = dict.fromkeys(problem.limits, math.inf)
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

    def test_outside_of_rounds_nothing_has_a_parent_and_settings_of_rounds_are_remarked_on(self) -> None:
        """A searcher that does not work in rounds says that `search.rounds` is not used."""
        problem = replace(case("plain"), rounds=Rounds())
        searcher = self.searcher(problem)
        assert self.searcher(replace(problem, rounds=None, trials=1000)).remarks == ()
        if not self.searcher.works_in_rounds:
            assert any("rounds" in remark for remark in searcher.remarks)
            assert all(each.parent is None for each in candidates(searcher))
            assert searcher.parents == frozenset()
            assert searcher.failure is None

    def test_an_allocation_keeps_the_order_of_the_space(self) -> None:
        """Groups come in the order of the space, as in every record."""
        problem = case("plain")
        for each in candidates(self.searcher(problem)):
            assert isinstance(each.allocation, Allocation)
            assert tuple(each.allocation) == problem.space.names

    def test_a_small_space_is_exhausted_not_searched_for_ever(self) -> None:
        """Every final allocation is one that the projection (or, unfilled, the repair) of some widths gives."""
        problem = tiny()
        found = {each.allocation for each in candidates(self.searcher(problem)) if each.role == "final"}
        filled = self.searcher.fills_budget and not self.searcher.works_in_rounds
        assert found <= realisable(problem, filled)

    def test_two_seeds_search_differently_and_one_seed_alike(self) -> None:
        """Random draws come from the problem's seed alone; `is_random` says whether there are any."""
        problem = case("plain")
        first, again = (candidates(self.searcher(problem)) for _ in range(2))
        assert first == again
        other = candidates(self.searcher(replace(problem, seed=1)))
        assert (first != other) == self.searcher.is_random

    def test_no_further_step_fits_into_what_is_left_of_the_limits(self) -> None:
        """With `fills_budget` no group of a proposal could be one level wider, or under a parent as wide as there."""
        problem = case("two limits")
        found = candidates(self.searcher(problem))
        assert all(_is_filled(problem, each, found) for each in found) == self.searcher.fills_budget

    # Ends

    @pytest.mark.parametrize("slots", [1, 4, 16])
    def test_it_finishes_with_any_number_of_slots_and_stays_finished(self, slots: int) -> None:
        """Once nothing runs and nothing is proposed, nothing is proposed any more."""
        problem = case("plain")
        searcher = self.searcher(problem)
        assert len(candidates(searcher, slots, failures=0.1)) <= trials_of(problem)
        assert not searcher.ask(1)
        assert not searcher.ask(16)

    def test_a_run_in_which_everything_fails_ends(self) -> None:
        """Failures count as trials."""
        problem = case("plain")
        assert 1 <= len(candidates(self.searcher(problem), slots=2, failures=1.0)) <= trials_of(problem)

    def test_three_hundred_groups_take_seconds_not_minutes(self) -> None:
        """Eight candidates for 300 groups take less than half a minute of one CPU."""
        problem = _three_hundred_groups()
        started = time.process_time()
        found = candidates(self.searcher(problem), slots=4)
        assert found
        assert len(found[0].allocation) == 300
        assert time.process_time() - started < _SECONDS

    # Replays

    def test_asking_for_many_is_asking_for_one_many_times(self) -> None:
        """`ask(n)` is n times `ask(1)`, whatever was told in between."""
        problem = case("plain")
        one, many = self.searcher(problem), self.searcher(problem)
        for count in (1, 5, 3, 9, 20):
            batch = list(many.ask(count))
            assert [each for _ in range(count) for each in one.ask(1)] == batch
            for candidate in reversed(batch[1:]):  # the first of each batch stays unanswered
                one.tell(outcome(candidate, candidate.number % 4 == 0))
                many.tell(outcome(candidate, candidate.number % 4 == 0))

    def test_asking_for_none_changes_nothing(self) -> None:
        """`ask(0)` is empty and leaves the state as it was."""
        problem = case("plain")
        left_alone, asked = self.searcher(problem), self.searcher(problem)
        for _ in range(12):
            assert not asked.ask(0)
            left, right = left_alone.ask(1), asked.ask(1)
            assert list(left) == list(right)
            for candidate in left:
                left_alone.tell(outcome(candidate))
                asked.tell(outcome(candidate))

    @pytest.mark.parametrize("kept", [3, 11, 25, 40])
    def test_a_replay_goes_on_as_the_unbroken_run_did(self, kept: int) -> None:
        """A searcher is a function of its problem and of what it was asked and told; trials may come from JSON."""
        problem = case("plain")
        whole = list(events(self.searcher(problem), slots=4, failures=0.2))
        replayed = self.searcher(problem)
        for index, event in enumerate(whole):
            if isinstance(event, Trial):
                replayed.tell(event if index >= kept else _from_record(event))
            else:
                if index >= kept:
                    replayed.ask(0)
                assert list(replayed.ask(1)) == [event]

    def test_the_outcome_of_an_unknown_candidate_is_refused(self) -> None:
        """A trial of a number that was not asked for, or a second one of the same number, is a ValueError."""
        searcher = self.searcher(case("plain"))
        (first,) = searcher.ask(1)
        with pytest.raises(ValueError, match=r"trial \d+"):
            searcher.tell(outcome(replace(first, number=7)))
        searcher.tell(outcome(first))
        with pytest.raises(ValueError, match=r"trial \d+"):
            searcher.tell(outcome(first))

    @pytest.mark.parametrize("broken_off", [5, 30, 43])
    def test_it_comes_back_from_a_ledger_with_candidates_still_open(self, broken_off: int, tmp_path: Path) -> None:
        """What a run wrote before it was killed restores the searcher, and both go on alike."""
        problem = case("plain")
        unbroken = self.searcher(problem)
        with Ledger(tmp_path / "ledger.jsonl") as ledger:
            ledger.write("started", version=1)
            for event in itertools.islice(events(unbroken, slots=5, failures=0.2), broken_off):
                if isinstance(event, Candidate):
                    ledger.asked(event)
                else:
                    ledger.told(event)
        history, restored = read_history(tmp_path), self.searcher(problem)
        told = replay(history, restored)
        assert [t.number for t in told] == [r["number"] for r in history.of("told")]
        for candidate in reversed(history.open_candidates()):
            for searcher in (unbroken, restored):
                searcher.tell(outcome(candidate))
            assert list(restored.ask(2)) == list(unbroken.ask(2))

    # Settings that are searched along

    @pytest.mark.parametrize("slots", [1, 4, 16])
    def test_every_value_lies_in_its_dimension_and_no_candidate_comes_twice(self, slots: int) -> None:
        """Candidates name every setting of the space, in its order (in rounds, those but of the fine-tuning)."""
        problem = case("settings")
        found = candidates(self.searcher(problem), slots, failures=0.2)
        assert found
        assert len({each.key for each in found}) == len(found)
        for each in found:
            assert list(each.settings) == self._settings_named(problem)
            assert all(value in problem.space.settings[key] for key, value in each.settings.items())

    def test_where_settings_are_not_searched_they_keep_their_defaults_and_change_nothing(self) -> None:
        """Without `handles_settings` the first allocation is that of the problem without settings."""
        problem = case("settings")
        found = candidates(self.searcher(problem))
        values = defaults(problem.space.settings)
        kept = {key: values[key] for key in self._settings_named(problem)}
        assert all(each.settings == kept for each in found) != self.searcher.handles_settings
        if not self.searcher.handles_settings:
            assert found[0].allocation == self.searcher(case("plain")).ask(1)[0].allocation

    def test_where_settings_are_searched_several_values_of_each_are_tried(self) -> None:
        """In 40 trials two values of every choice and four of every range."""
        if not self.searcher.handles_settings:
            pytest.skip("does not search settings")
        problem = replace(case("settings"), trials=40)
        found = candidates(self.searcher(problem))
        for key, dimension in problem.space.settings.items():
            assert len({each.settings[key] for each in found}) >= (2 if isinstance(dimension, Choice) else 4), key

    @pytest.mark.parametrize("slots", [1, 4])
    def test_a_replay_with_settings_goes_on_as_the_unbroken_run_did(self, slots: int) -> None:
        """Settings come back from JSON as they were."""
        problem = case("settings")
        replayed = self.searcher(problem)
        for event in list(events(self.searcher(problem), slots, failures=0.2)):
            if isinstance(event, Trial):
                replayed.tell(_from_record(event))
            else:
                assert list(replayed.ask(1)) == [event]

    def test_few_allocations_are_tried_again_under_other_settings(self) -> None:
        """A small space is not exhausted as long as settings are."""
        if not self.searcher.handles_settings:
            pytest.skip("does not search settings")
        problem = with_settings(tiny())
        found = candidates(self.searcher(problem))
        assert len(found) == problem.trials
        assert len({each.allocation for each in found}) < len(found)

    def _settings_named(self, problem: SearchProblem) -> list[str]:
        """Returns the settings that candidates name: rounds say themselves how they train."""
        in_rounds = self.searcher.works_in_rounds
        return [key for key in problem.space.settings if not (in_rounds and key.startswith(FINETUNE))]


def trials_of(problem: SearchProblem) -> int:
    """Returns the number of trials of a problem that limits it."""
    assert problem.trials is not None
    return problem.trials


def realisable(problem: SearchProblem, filled: bool) -> set[Allocation]:
    """Returns every allocation of a small space within the limits.

    Args:
        problem: of a few levels.
        filled: whether what the limits leave is filled.
    """
    space = problem.space
    every = itertools.product(*(space.bounds[group].levels() for group in space.names))
    move = problem.project if filled else problem.repair
    return {move(dict(zip(space.names, widths, strict=True))) for widths in every}


def _is_filled(problem: SearchProblem, candidate: Candidate, asked: list[Candidate]) -> bool:
    widest = problem.space.widest() if candidate.parent is None else asked[candidate.parent].allocation
    limits = {kind: candidate.limits[kind] for kind in problem.limits}
    under = replace(problem, space=problem.space.narrowed(widest), limits=limits)
    return under.project(candidate.allocation) == candidate.allocation


def _from_record(trial: Trial) -> Trial:
    return Trial.from_json(json.loads(json.dumps(trial.to_json())), trial.candidate)


@cache
def _three_hundred_groups() -> SearchProblem:
    return with_curves(make_problem(100, streams=False, step=4, trials=8))  # its curves take seconds to make
