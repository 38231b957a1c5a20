from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.costs import within
from autoprune.core.recipe import Finetune, Recipe, Rounds
from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.searchers.base.iterative import plan
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.netadapt import MAX_LOSS, NetAdapt, expected_degradation, saved_share
from autoprune.testing.problems import events, few_groups, outcome
from tests.scores import scored
from tests.searchers.landscapes import best_regret, make_problem, planted, run, score, with_curves


def problem_of(trials: int = 1000, by: str = "ratio", count: int = 5, **settings: int) -> SearchProblem:
    assert by in ("ratio", "value")
    rounds = Rounds(count=count, by="ratio" if by == "ratio" else "value")
    return replace(with_curves(make_problem(trials=trials, **settings)), rounds=rounds)


def first_round(problem: SearchProblem) -> list[Candidate]:
    return list(NetAdapt(problem).ask(100))


def narrowed(candidate: Candidate, before: Allocation) -> set[str]:
    return {name for name, width in candidate.allocation.items() if width < before[name]}


def test_a_round_has_one_candidate_for_each_group_which_alone_is_narrowed() -> None:
    problem = problem_of(count=20)
    found = first_round(problem)
    widest = problem.space.widest()
    assert sorted(name for each in found for name in narrowed(each, widest)) == sorted(problem.space.names)
    assert all(len(narrowed(each, widest)) == 1 for each in found)


def test_a_narrowed_group_is_as_wide_as_the_limits_of_the_round_allow() -> None:
    problem = problem_of(count=20)
    for each in first_round(problem):
        (name,) = narrowed(each, problem.space.widest())
        limits = {"flops": each.limits["flops"]}
        assert within(each.allocation, problem.costs, limits)
        wider = next(level for level in problem.space.bounds[name].levels() if level > each.allocation[name])
        assert not within({**each.allocation, name: wider}, problem.costs, limits)


def test_no_group_loses_more_than_half_where_the_others_can_help() -> None:
    """Two rounds to half of the FLOPs: nearly a third at once, which no group can take alone."""
    problem = problem_of(count=2)
    before = problem.space.widest()
    found = first_round(problem)
    assert len(found) == len(problem.space.names)
    for name in problem.space.names:
        halved = [each for each in found if each.allocation[name] <= (1 - MAX_LOSS) * before[name]]
        assert len(halved) == 1
        assert len(narrowed(halved[0], before)) > 1
        ceilings = {**before, name: halved[0].allocation[name]}
        limits = {"flops": halved[0].limits["flops"]}
        under = replace(problem, space=problem.space.narrowed(ceilings), limits=limits)
        assert under.project(halved[0].allocation) == halved[0].allocation  # nothing is left over


def test_groups_that_keep_the_limits_alone_are_tried_before_those_that_need_help() -> None:
    problem = problem_of(count=8)
    curves = problem.curves["l1"]
    # Only the three streams can do it, and by the curves nothing else would lose anything.
    streams = {name: levels for name, levels in curves.levels.items() if "." not in name}
    problem = replace(problem, curves={"l1": replace(curves, levels=streams)})
    counts = [len(narrowed(each, problem.space.widest())) for each in first_round(problem)]
    assert [count == 1 for count in counts] == [True] * 3 + [False] * 9


def test_a_group_goes_below_half_where_no_other_can_help() -> None:
    problem = replace(few_groups(make_problem(keep=0.76, trials=9), 1), rounds=Rounds(count=1))
    (only,) = first_round(problem)
    (name,) = problem.space.names
    assert only.allocation[name] < problem.space.bounds[name].ceiling / 2
    assert problem.project(only.allocation) == only.allocation


def test_candidates_are_trained_as_the_rounds_say_and_start_from_the_last_winner() -> None:
    finetune = Finetune(steps=7)
    rounds = Rounds(count=3, finetune=finetune)
    problem = replace(problem_of(), rounds=rounds, recipe=Recipe(recalibrate=5, finetune=Finetune(steps=3)))
    searcher = NetAdapt(problem)
    told: dict[int, Trial] = {}
    rounds_seen: dict[int | None, list[Candidate]] = {}
    while asked := searcher.ask(1):
        rounds_seen.setdefault(asked[0].parent, []).append(asked[0])
        told[asked[0].number] = outcome(asked[0])
        searcher.tell(told[asked[0].number])
    assert {c.recipe for group in rounds_seen.values() for c in group} == {Recipe(recalibrate=5, finetune=finetune)}
    parents = list(rounds_seen)
    assert parents[0] is None
    assert len(parents) == 3
    for parent, children in zip(parents[1:], list(rounds_seen.values())[:-1], strict=True):
        assert parent in {child.number for child in children}
    assert all(
        c.role == ("final" if c.parent == parents[-1] else "intermediate") for g in rounds_seen.values() for c in g
    )


def test_without_a_training_of_their_own_candidates_have_the_experiments_recipe() -> None:
    recipe = Recipe(finetune=Finetune(steps=3))
    problem = replace(problem_of(), rounds=Rounds(finetune=None), recipe=recipe)
    assert {each.recipe for each in first_round(problem)} == {recipe}


def two_rounds(problem: SearchProblem, losses: Callable[[Candidate], float | None]) -> tuple[list[Candidate], NetAdapt]:
    """The candidates of the first round, told these losses (None is a failure), and the searcher."""
    searcher = NetAdapt(problem)
    found = list(searcher.ask(100))
    for each in found:
        loss = losses(each)
        searcher.tell(Trial(each, Failure("nan", "loss nan") if loss is None else score(loss)))
    return found, searcher


def test_the_winner_by_value_has_the_least_objective() -> None:
    found, searcher = two_rounds(problem_of(by="value"), lambda each: (each.number * 7) % 12 + 1.0)
    (following,) = searcher.ask(1)
    assert following.parent == min(found, key=lambda each: (each.number * 7) % 12).number


def test_the_winner_by_ratio_has_the_least_rise_for_what_it_saves() -> None:
    problem = problem_of(step=8)
    first = replace(problem, dense=scored(1.0, 0.5, 100))
    saved = {
        each.number: saved_share(
            problem.costs.dense(), problem.costs.costs(each.allocation), {"flops": each.limits["flops"]}
        )
        for each in first_round(first)
    }
    assert max(saved.values()) > 1.1 * min(saved.values())  # steps of 8 overshoot
    most, least = max(saved, key=lambda number: saved[number]), min(saved, key=lambda number: saved[number])

    def loss(each: Candidate) -> float | None:
        """A little more where much more is saved."""
        return {most: 1.52, least: 1.5}.get(each.number)

    for changed, winner in [
        (first, most),
        (replace(first, rounds=Rounds(count=5, by="value")), least),
        (problem, least),  # where the dense network was not judged
    ]:
        assert two_rounds(changed, loss)[1].ask(1)[0].parent == winner


def test_of_those_that_are_better_than_their_parent_more_saved_is_better_still() -> None:
    first = replace(problem_of(step=8), dense=scored(2.0, 0.5, 100))
    costs = {each.number: first.costs.cost(each.allocation, "flops") for each in first_round(first)}
    _, searcher = two_rounds(first, lambda _: 1.0)
    assert costs[searcher.ask(1)[0].parent or 0] == min(costs.values())


def test_failures_are_passed_over_and_of_equal_ones_the_first_wins() -> None:
    _, searcher = two_rounds(problem_of(by="value"), lambda each: None if each.number < 3 else 1.0)
    assert searcher.ask(1)[0].parent == 3


@pytest.mark.parametrize("slots", [1, 4, 16])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_rounds_are_the_same_with_any_number_of_slots_and_any_order_of_results(slots: int, seed: int) -> None:
    problem = replace(problem_of(count=4), dense=scored(0.5, 0.5, 10))
    alone = [event for event in events(NetAdapt(problem)) if isinstance(event, Candidate)]
    assert [event for event in events(NetAdapt(problem), slots, seed) if isinstance(event, Candidate)] == alone
    assert len(alone) == 4 * 12


def test_it_waits_until_the_whole_round_is_told() -> None:
    problem = problem_of()
    searcher = NetAdapt(problem)
    found = searcher.ask(100)
    assert len(found) == 12
    for each in found[1:]:
        searcher.tell(outcome(each))
        assert not searcher.ask(100)
    searcher.tell(outcome(found[0]))
    assert len(searcher.ask(100)) == 12


def test_the_weights_that_may_be_needed_are_the_parents_and_the_best_ones_so_far() -> None:
    problem = problem_of(by="value", count=2)
    searcher = NetAdapt(problem)
    assert searcher.parents == frozenset()
    found = searcher.ask(100)
    for each, loss, best in zip(found, [5.0, 6.0, 4.0, None, 9.0], [0, 0, 2, 2, 2], strict=False):
        searcher.tell(Trial(each, Failure("nan", "loss nan") if loss is None else score(loss)))
        assert searcher.parents == {best}
    for each in found[5:]:
        searcher.tell(Trial(each, score(7.0)))
    assert searcher.parents == {2}
    second = searcher.ask(100)
    assert {each.parent for each in second} == {2}
    searcher.tell(Trial(second[4], score(8.0)))
    assert searcher.parents == {2, second[4].number}
    for each in [*second[:4], *second[5:]]:
        searcher.tell(Trial(each, score(9.0)))
    assert searcher.parents == frozenset()


def test_a_group_that_cannot_shrink_further_ends_neither_a_round_nor_the_run() -> None:
    problem = problem_of(count=6)
    bounds = dict(problem.space.bounds)
    bounds["s0"] = replace(bounds["s0"], floor=bounds["s0"].ceiling)
    bounds["s1"] = replace(bounds["s1"], floor=bounds["s1"].ceiling - 1)
    problem = with_curves(replace(problem, space=replace(problem.space, bounds=bounds), curves={}))
    searcher = NetAdapt(problem)
    trials = [event for event in events(searcher) if isinstance(event, Trial)]
    assert searcher.failure is None
    assert trials[-1].candidate.role == "final"
    assert all(trial.candidate.allocation["s0"] == 16 for trial in trials)
    assert sum(trial.candidate.parent is None for trial in trials) == 11
    assert {trial.candidate.allocation["s1"] for trial in trials} == {31, 32}


def test_where_few_are_allowed_those_are_tried_that_the_curves_expect_to_rise_least_for_what_they_save() -> None:
    problem = problem_of(count=20)
    every, few = first_round(problem), first_round(replace(problem, trials=60))
    widest = problem.space.widest()

    def rate(each: Candidate) -> float:
        limits = {"flops": each.limits["flops"]}
        saved = saved_share(problem.costs.dense(), problem.costs.costs(each.allocation), limits)
        return expected_degradation(problem, widest, each.allocation) / saved

    assert [each.allocation for each in few] == [each.allocation for each in sorted(every, key=rate)[:3]]


def test_without_curves_the_scores_of_what_goes_are_what_is_expected_to_be_lost() -> None:
    problem = replace(make_problem(), importance={"s0": np.array([4.0, 1.0, 3.0, 2.0] * 4)})
    widest = problem.space.widest()
    assert expected_degradation(problem, widest, {**widest, "s0": 10}) == pytest.approx((4 * 1 + 2 * 2) / 40)
    assert expected_degradation(problem, {**widest, "s0": 10}, {**widest, "s0": 9}) == pytest.approx(2 / 40)
    assert expected_degradation(problem, widest, {**widest, "s1": 24}) == pytest.approx(0.25)


def test_with_curves_the_rises_of_all_narrowed_groups_add_up() -> None:
    problem = problem_of()
    widest = problem.space.widest()
    after = Allocation({**widest, "s0": 8, "s1.0": 20})
    curves = problem.curves["l1"]
    rise = curves.curve("s0").at(8) + curves.curve("s1.0").at(20)
    assert expected_degradation(problem, widest, after) == pytest.approx(rise)
    twice = replace(problem, curves={"l1": curves, "l2": curves})
    assert expected_degradation(twice, widest, after) == pytest.approx(rise)


def test_what_is_saved_is_a_share_of_what_was_asked_for_of_each_limit_that_is_not_kept() -> None:
    before, after = {"flops": 100, "params": 50, "size": 7}, {"flops": 80, "params": 40, "size": 7}
    assert saved_share(before, after, {"flops": 80}) == 1.0
    assert saved_share(before, after, {"flops": 90, "params": 45, "size": 9}) == 2.0
    assert saved_share(before, after, {"flops": 60, "params": 40}) == 0.75


@pytest.mark.parametrize("streams", [True, False])
def test_it_comes_near_the_optimum_of_a_landscape_and_to_its_limits_exactly(streams: bool) -> None:
    landscape = planted("any", 3, streams)
    problem = replace(landscape.problem, trials=300, rounds=Rounds(count=20))
    trials = run(replace(landscape, problem=problem), NetAdapt(problem))
    finals = [trial for trial in trials if trial.candidate.role == "final"]
    assert best_regret(landscape, finals) < 0.12 * landscape.true(landscape.optimum)
    limits = plan(problem.costs.dense(), problem.limits, 20)
    assert finals[0].candidate.limits == limits[-1] == problem.limits
    best = min(finals, key=lambda trial: trial.score.loss if trial.score else 9.0)
    spent = problem.costs.cost(best.candidate.allocation, "flops")
    assert 0.98 * problem.limits["flops"] < spent <= problem.limits["flops"]
