from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoprune.core.recipe import AdmmTraining, Finetune, Recipe, Rounds
from autoprune.core.trial import Candidate, Failure, Stopped, Trial
from autoprune.searchers.autocompress import TRIES, AutoCompress
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.testing.problems import events, outcome
from tests.searchers.landscapes import best_regret, make_problem, planted, run, score, with_curves

ROUNDS = Rounds(count=3, probes=10, finetune=Finetune(steps=7), admm=AdmmTraining(steps=9))
RECIPE = Recipe(recalibrate=5)
TRAINED = replace(RECIPE, finetune=ROUNDS.finetune, admm=ROUNDS.admm)


def problem_of(trials: int = 100) -> SearchProblem:
    return replace(with_curves(make_problem(trials=trials)), rounds=ROUNDS, recipe=RECIPE)


def trained(candidate: Candidate) -> bool:
    return candidate.recipe.admm is not None


def told(problem: SearchProblem, evaluate: Callable[[Candidate], Trial] = outcome) -> tuple[list[Trial], AutoCompress]:
    searcher, trials = AutoCompress(problem), []
    while asked := searcher.ask(1):
        trials.append(evaluate(asked[0]))
        searcher.tell(trials[-1])
    return trials, searcher


def failing(where: Callable[[Candidate], bool]) -> Callable[[Candidate], Trial]:
    return lambda each: Trial(each, Failure("exception", "no luck")) if where(each) else outcome(each)


def test_a_round_is_an_annealing_without_training_and_then_a_training_of_its_best() -> None:
    trials, _ = told(problem_of())
    assert len(trials) == 3 * 11
    for begin in range(0, 33, 11):
        probes, last = trials[begin : begin + 10], trials[begin + 10]
        assert {probe.candidate.recipe for probe in probes} == {RECIPE}
        assert {probe.candidate.role for probe in probes} == {"intermediate"}
        assert last.candidate.recipe == TRAINED
        assert last.candidate.role == ("final" if begin == 22 else "intermediate")
        best = min(probes, key=lambda probe: probe.score.loss if probe.score else 9.0)
        assert last.candidate.allocation == best.candidate.allocation
        assert {each.candidate.parent for each in (*probes, last)} == {begin - 1 if begin else None}
        assert len({tuple(each.candidate.limits.items()) for each in (*probes, last)}) == 1


def test_a_round_begins_with_the_widths_of_its_parent_moved_onto_its_limits() -> None:
    problem = problem_of()
    trials, _ = told(problem)
    before, first = trials[10].candidate, trials[11].candidate
    limits = {"flops": first.limits["flops"]}
    under = replace(problem, space=problem.space.narrowed(before.allocation), limits=limits)
    assert first.allocation == under.project(before.allocation)


def test_the_seed_changes_what_comes_after_the_starts() -> None:
    problem = problem_of()
    one, other = (told(replace(problem, seed=seed))[0] for seed in (0, 1))
    begins = [trial.candidate.allocation for trial in one[:6]]
    assert [trial.candidate.allocation for trial in other[:6]] == begins
    assert [trial.candidate.allocation for trial in other[6:10]] != [trial.candidate.allocation for trial in one[6:10]]


def test_the_training_waits_for_the_probes_that_run() -> None:
    searcher = AutoCompress(problem_of())
    probes = searcher.ask(50)
    assert len(probes) == 10
    for each in probes[1:]:
        searcher.tell(outcome(each))
        assert not searcher.ask(1)
    searcher.tell(outcome(probes[0]))
    (last,) = searcher.ask(50)
    assert trained(last)
    assert not searcher.ask(1)
    searcher.tell(outcome(last))
    assert {each.parent for each in searcher.ask(50)} == {last.number}


def test_only_what_was_trained_is_a_parent() -> None:
    seen = set()
    searcher = AutoCompress(problem_of())
    for event in events(searcher, slots=4):
        seen |= searcher.parents
        if isinstance(event, Candidate) and event.parent is not None:
            assert searcher.parents == {event.parent}
    assert seen == {10, 21}
    assert searcher.parents == frozenset()


def test_a_failed_training_is_followed_by_that_of_the_next_best_allocation() -> None:
    trials, searcher = told(problem_of(), failing(lambda each: trained(each) and each.number == 10))
    by_loss = sorted(trials[:10], key=lambda probe: probe.score.loss if probe.score else 9.0)
    assert [trial.candidate.allocation for trial in trials[10:12]] == [
        each.candidate.allocation for each in by_loss[:2]
    ]
    assert trials[12].candidate.parent == 11
    assert searcher.failure is None
    assert len(trials) == 34


def test_after_a_few_failed_trainings_the_round_has_failed() -> None:
    trials, searcher = told(problem_of(), failing(trained))
    assert len(trials) == 10 + TRIES
    assert searcher.failure is not None
    assert searcher.failure.startswith("round 1 of 3 (flops at most ")
    assert searcher.failure.endswith("failed: none of 3 candidates could be scored (exception: no luck)")


def test_no_training_is_tried_again_where_later_rounds_need_the_trials() -> None:
    trials, searcher = told(problem_of(33), failing(lambda each: trained(each) and each.number == 32))
    assert len(trials) == 33
    assert searcher.failure is not None
    assert "round 3 of 3" in searcher.failure
    # Earlier rounds take a second try out of what later ones probe.
    trials, searcher = told(problem_of(33), failing(lambda each: trained(each) and each.number == 10))
    assert searcher.failure is None
    assert len(trials) <= 33
    assert trials[-1].candidate.role == "final"


def test_a_round_whose_probes_all_fail_has_failed() -> None:
    trials, searcher = told(problem_of(), failing(lambda each: each.parent is not None))
    assert len(trials) == 11 + 10
    assert searcher.failure is not None
    assert "round 2 of 3" in searcher.failure
    assert "none of 10 candidates could be scored (exception: no luck)" in searcher.failure


def test_probes_that_end_at_a_rung_are_not_trained() -> None:
    stopped = 3

    def evaluate(each: Candidate) -> Trial:
        if each.number == stopped:
            return Trial(each, Stopped(score(0.0)))
        return outcome(each)

    trials, _ = told(problem_of(), evaluate)
    assert trials[10].candidate.allocation != trials[stopped].candidate.allocation


@pytest.mark.parametrize("streams", [True, False])
def test_it_comes_near_the_optimum_of_a_landscape(streams: bool) -> None:
    landscape = planted("any", 3, streams)
    problem = replace(landscape.problem, trials=100)
    trials = run(replace(landscape, problem=problem), AutoCompress(problem))
    finals = [trial for trial in trials if trial.candidate.role == "final"]
    assert len(finals) == 1
    assert best_regret(landscape, finals) < 0.05 * landscape.true(landscape.optimum)
