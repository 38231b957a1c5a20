"""How far rounds go, how many candidates they may have, and what ends them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.recipe import AdmmTraining, Finetune, Recipe, Rounds
from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.errors import UserError
from autoprune.searchers.autocompress import AutoCompress
from autoprune.searchers.base.history import History
from autoprune.searchers.base.iterative import IterativeSearcher, RoundBudget, plan
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.netadapt import NetAdapt
from autoprune.testing.problems import case, outcome
from tests.scores import scored
from tests.searchers.landscapes import make_problem, with_curves

BOTH = pytest.mark.parametrize("searcher", [NetAdapt, AutoCompress])


def run(searcher: IterativeSearcher, evaluate: Callable[[Candidate], Trial] = outcome) -> list[Trial]:
    trials: list[Trial] = []
    while asked := searcher.ask(1):
        trials.append(evaluate(asked[0]))
        searcher.tell(trials[-1])
    return trials


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(1, 60))
def test_the_reductions_of_any_number_of_rounds_add_up_to_the_target(widest: int, limit: int, count: int) -> None:
    limits = [each["flops"] for each in plan({"flops": widest}, {"flops": limit}, count)]
    assert len(limits) == count
    assert limits[-1] == limit
    start = max(widest, limit)
    reductions = [a - b for a, b in zip([start, *limits], limits, strict=False)]
    assert sum(reductions) == start - limit
    assert min(reductions) >= 0


@given(st.integers(10**6, 10**12), st.floats(0.05, 0.95), st.integers(2, 40))
def test_every_round_takes_the_same_share_of_what_is_left(widest: int, kept: float, count: int) -> None:
    limit = int(kept * widest)
    limits = [widest, *(each["flops"] for each in plan({"flops": widest}, {"flops": limit}, count))]
    for before, after in itertools.pairwise(limits):
        assert after / before == pytest.approx((limit / widest) ** (1 / count), rel=1e-4)


def test_a_limit_that_is_kept_already_is_the_same_in_all_rounds_and_the_others_fall() -> None:
    limits = plan({"flops": 1000, "params": 10}, {"flops": 125, "params": 20}, 3)
    assert limits == [{"flops": 500, "params": 20}, {"flops": 250, "params": 20}, {"flops": 125, "params": 20}]


def round_budget(problem: SearchProblem, recipe: Recipe, probed: bool) -> RoundBudget:
    return RoundBudget(History(problem), recipe, probed)


def test_trials_are_shared_alike_among_the_rounds() -> None:
    problem = make_problem(trials=50)
    rounds = plan(problem.costs.dense(), problem.limits, 4)
    assert round_budget(problem, Recipe(), False).share(rounds) == 12
    assert round_budget(problem, Recipe(), True).share(rounds) == 11


def test_work_is_shared_by_what_a_candidate_of_each_round_takes_at_most() -> None:
    problem = make_problem()
    dense, own = problem.costs.max_macs({}), problem.costs.max_macs(problem.limits)
    first = {"flops": 2 * (dense * 3 // 4)}
    middle = problem.costs.max_macs(first)
    trained = Recipe(finetune=Finetune(steps=2, batch_size=5), admm=AdmmTraining(steps=3, batch_size=7))
    # Judging takes 100 samples; what trains goes three times through each image, ADMM in the dense shape.
    evaluating, training = 100 * (own + middle), 30 * (own + middle) + 2 * 63 * dense
    problem = replace(problem, trials=None, price=100 * own, work=5 * (evaluating + training))
    rounds = [first, problem.limits]
    assert round_budget(problem, trained, False).share(rounds) == 5
    assert round_budget(replace(problem, work=5 * (evaluating + training) - 1), trained, False).share(rounds) == 4
    # Seven probes and one that is trained.
    assert round_budget(replace(problem, work=8 * evaluating + training), trained, True).share(rounds) == 7
    assert round_budget(replace(problem, work=8 * evaluating + training - 1), trained, True).share(rounds) == 6


def test_a_training_that_is_distilled_pays_for_the_teacher() -> None:
    problem = make_problem()
    dense, own = problem.costs.max_macs({}), problem.costs.max_macs(problem.limits)
    distilled = Recipe(finetune=Finetune(steps=10, batch_size=10, distill=0.5))
    price = 100 * (3 * own + dense)
    for work, share in ((2 * price, 2), (2 * price - 1, 1)):
        assert round_budget(replace(problem, trials=None, work=work), distilled, False).share([problem.limits]) == share


@BOTH
@pytest.mark.parametrize("evaluations", [9, 30, 80])
def test_no_more_work_is_spent_than_there_is(searcher: type[IterativeSearcher], evaluations: int) -> None:
    """Every candidate is taken to cost what it costs at most."""
    problem = with_curves(make_problem(trials=1))
    dense, own = problem.costs.max_macs({}), problem.costs.max_macs(problem.limits)
    rounds = Rounds(finetune=Finetune(steps=3, batch_size=10), admm=AdmmTraining(steps=2, batch_size=10))
    work = evaluations * 100 * dense
    problem = replace(problem, trials=None, price=100 * own, work=work, rounds=rounds)

    def evaluate(candidate: Candidate) -> Trial:
        macs = problem.costs.max_macs({kind: candidate.limits[kind] for kind in problem.limits})
        recipe, spent = candidate.recipe, 100 * macs
        spent += 3 * 30 * macs if recipe.finetune else 0
        spent += 3 * 20 * dense if recipe.admm else 0
        return replace(outcome(candidate), work=spent)

    trials = run(searcher(problem), evaluate)
    assert trials[-1].candidate.role == "final"
    assert 0.5 * work < sum(trial.work for trial in trials) <= work


@BOTH
def test_the_last_round_is_final_and_those_before_are_on_the_way(searcher: type[IterativeSearcher]) -> None:
    problem = with_curves(make_problem(trials=100))
    trials = run(searcher(replace(problem, rounds=Rounds(count=3, probes=5))))
    limits = plan(problem.costs.dense(), problem.limits, 3)
    seen = list(dict.fromkeys(tuple(trial.candidate.limits.items()) for trial in trials))
    assert seen == [tuple(each.items()) for each in limits]
    finals = {trial.number for trial in trials if trial.candidate.role == "final"}
    assert finals <= {trial.number for trial in trials if trial.candidate.limits == problem.limits}
    assert {trial.candidate.role for trial in trials} == {"final", "intermediate"}


@BOTH
def test_a_network_within_its_limits_is_one_candidate_as_wide_as_the_space(searcher: type[IterativeSearcher]) -> None:
    problem = make_problem(keep=1.0)
    (trial,) = run(searcher(problem))
    assert trial.candidate.allocation == problem.space.widest()
    assert (trial.candidate.role, trial.candidate.parent) == ("final", None)
    assert trial.candidate.recipe.finetune == Rounds().finetune


@BOTH
def test_a_parent_that_keeps_the_last_limits_already_is_evaluated_once_more_as_final(
    searcher: type[IterativeSearcher],
) -> None:
    """Steps so coarse that the first one goes past the limits."""
    problem = make_problem(streams=False, step=32, keep=0.999, blocks=1)
    trials = run(searcher(replace(problem, rounds=Rounds(count=5))))
    last, before = trials[-1].candidate, trials[-2].candidate
    assert (last.role, before.role) == ("final", "intermediate")
    assert last.parent is not None
    assert last.allocation == trials[last.parent].candidate.allocation
    assert len({tuple(trial.candidate.limits.items()) for trial in trials}) == 2


@BOTH
@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_round_that_fails_ends_the_search_and_says_which_and_why(
    searcher: type[IterativeSearcher], failing: int
) -> None:
    problem = with_curves(replace(make_problem(), rounds=Rounds(count=3, probes=5)))
    limits = plan(problem.costs.dense(), problem.limits, 3)[failing - 1]

    def evaluate(candidate: Candidate) -> Trial:
        if candidate.limits == limits:
            return Trial(candidate, Failure("nan", "loss nan"))
        return outcome(candidate)

    found = searcher(problem)
    trials = run(found, evaluate)
    assert trials[-1].candidate.limits == limits
    count = sum(trial.candidate.limits == limits for trial in trials)
    assert found.failure == (
        f"round {failing} of 3 (flops at most {limits['flops']:,}) failed: none of {count} candidates could be scored "
        "(nan: loss nan)"
    )
    assert found.parents == frozenset()
    assert not found.ask(5)


@pytest.mark.parametrize(("searcher", "trials"), [(NetAdapt, 0), (AutoCompress, 1)])
def test_too_few_trials_for_one_round_are_refused(searcher: type[IterativeSearcher], trials: int) -> None:
    with pytest.raises(UserError, match=f"the limit of {trials} trials? does not suffice for one round of"):
        searcher(make_problem(trials=trials))


def test_too_little_work_for_one_round_is_refused() -> None:
    problem = replace(make_problem(), trials=None, price=1000, work=1500)
    with pytest.raises(UserError, match="the limit on evaluations does not suffice for one round of 1 or more"):
        NetAdapt(problem)


@pytest.mark.parametrize(
    ("searcher", "trials", "said"),
    [
        (NetAdapt, 120, []),
        (NetAdapt, 60, ["about 6 of 12 groups are tried in each of 10 rounds, as the limit of 60 trials allows"]),
        (NetAdapt, 4, ["4 of 10 rounds are made, as the limit of 4 trials", "about 1 of 12 groups"]),
        (AutoCompress, 84, []),
        (AutoCompress, 60, ["14 of 20 probes are made in each of 4 rounds, as the limit of 60 trials allows"]),
        (AutoCompress, 20, ["2 of 4 rounds are made", "9 of 20 probes are made in each of 2 rounds"]),
        (AutoCompress, 2, ["1 of 4 rounds are made", "1 of 20 probes"]),
    ],
)
def test_what_the_trials_do_not_allow_is_said_and_kept_to(
    searcher: type[IterativeSearcher], trials: int, said: list[str]
) -> None:
    problem = with_curves(make_problem(trials=trials))
    found = searcher(problem)
    assert len(found.remarks) == len(said)
    assert all(text in remark for text, remark in zip(said, found.remarks, strict=True))
    made = run(found)
    assert len(made) <= trials
    assert made[-1].candidate.role == "final"


def test_what_the_work_does_not_allow_is_said() -> None:
    problem = replace(with_curves(make_problem()), trials=None, price=1000, work=10**13)
    assert NetAdapt(problem).remarks == (
        "about 1 of 12 groups are tried in each of 10 rounds, as the limit on evaluations allows no more",
    )


@BOTH
def test_a_candidate_that_was_never_asked_for_is_refused_when_all_is_over(searcher: type[IterativeSearcher]) -> None:
    found = searcher(with_curves(make_problem(trials=30)))
    trials = run(found)
    with pytest.raises(ValueError, match="told before"):
        found.tell(trials[-1])
    with pytest.raises(ValueError, match="none of the"):
        found.tell(Trial(replace(trials[-1].candidate, number=len(trials)), scored(0.1, 0.9, 10)))


@BOTH
def test_rounds_train_as_they_say_whatever_settings_are_searched_elsewhere(searcher: type[IterativeSearcher]) -> None:
    problem = case("settings")
    assert "finetune.steps" in problem.space.settings
    asked = [trial.candidate for trial in run(searcher(problem))]
    assert all(set(candidate.settings) == {"criterion", "normalise"} for candidate in asked)
