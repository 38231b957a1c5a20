import json
import math

import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.metrics import KL, LOSS, MetricInfo
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Candidate, Failure, Score, Trial, reasons, value
from tests.scores import scored

CANDIDATE = Candidate(
    3,
    Allocation({"a": 1, "b": 2}),
    Recipe(64, False),
    {"criterion": "l1", "rate": 0.1},
    1,
    "intermediate",
    {"flops": 10},
)


def through_json(data):
    return json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.parametrize(
    "candidate", [CANDIDATE, Candidate(0, Allocation({})), Candidate(1, Allocation({"a": 1}), Recipe(0, True, 64))]
)
def test_a_candidate_survives_json(candidate):
    assert Candidate.from_json(through_json(candidate.to_json())) == candidate


@pytest.mark.parametrize("outcome", [scored(0.123456789012345, 0.5, 5000), Failure("nan", "loss is nan")])
def test_a_trial_survives_json(outcome):
    trial = Trial(CANDIDATE, outcome, {"flops": 10, "params": 3}, 1.25, "worker-2")
    assert Trial.from_json(through_json(trial.to_json()), CANDIDATE) == trial


def test_candidates_that_differ_only_in_number_role_and_limits_have_one_key():
    other = Candidate(9, Allocation({"b": 2, "a": 1}), Recipe(64, False), dict(CANDIDATE.settings), 1, "final", {})
    assert other.key == CANDIDATE.key
    assert hash(other.key) == hash(CANDIDATE.key)


@pytest.mark.parametrize(
    "other",
    [
        Candidate(3, Allocation({"a": 1, "b": 3}), Recipe(64, False), CANDIDATE.settings, 1),
        Candidate(3, CANDIDATE.allocation, Recipe(64, True), CANDIDATE.settings, 1),
        Candidate(3, CANDIDATE.allocation, Recipe(64, False, 8), CANDIDATE.settings, 1),
        Candidate(3, CANDIDATE.allocation, Recipe(64, False), {"criterion": "l2", "rate": 0.1}, 1),
        Candidate(3, CANDIDATE.allocation, Recipe(64, False), CANDIDATE.settings, None),
    ],
)
def test_candidates_that_differ_in_what_is_evaluated_have_different_keys(other):
    assert other.key != CANDIDATE.key


def test_only_a_scored_trial_has_a_score():
    score = scored(0.5, 0.9, 10)
    assert Trial(CANDIDATE, score).score == score
    assert Trial(CANDIDATE, Failure("timeout", "30 s")).score is None


def test_a_search_minimises_the_loss_the_missing_share_or_a_value_in_its_direction():
    score = Score(0.5, {"accuracy": 0.9, "psnr": 30.0, "mae": 2.0}, 10, kl=0.25)
    assert value(score, LOSS) == 0.5
    assert value(score, KL) == 0.25
    assert math.isclose(value(score, MetricInfo("accuracy", "maximize", "%")), 0.1)
    assert value(score, MetricInfo("psnr", "maximize", "dB")) == -30.0
    assert value(score, MetricInfo("mae")) == 2.0
    with pytest.raises(ValueError, match="has no f1: it has accuracy, psnr, mae, loss, kl"):
        value(score, MetricInfo("f1", "maximize"))


def test_a_score_is_told_in_numbers_by_name():
    score = Score(0.5, {"mae": 2.0}, 10, kl=0.25)
    assert Score.of_numbers(score.numbers(), 10) == score


def test_a_recipe_that_does_not_reconstruct_is_written_as_before_there_was_reconstruction():
    assert Recipe(64, False).to_json() == {"recalibrate": 64, "augment": False}
    assert Recipe.from_json({"recalibrate": 64, "augment": False}) == Recipe(64, False, 0)
    assert Recipe(64, False, 9).to_json() == {"recalibrate": 64, "augment": False, "reconstruct": 9}
    assert Recipe.from_json(through_json(Recipe(64, False, 9).to_json())) == Recipe(64, False, 9)
    swept = Recipe(64, False, 9, consumers_only=True)
    assert Recipe.from_json(through_json(swept.to_json())) == swept


def test_the_reasons_of_failures_are_named_once_and_at_most_three():
    def trial(number, outcome):
        return Trial(Candidate(number, Allocation({})), outcome)

    failures = [Failure("nan", "loss nan"), Failure("nan", "loss nan"), scored(0.1, 0.9, 3), Failure("timeout", "slow")]
    trials = [trial(number, outcome) for number, outcome in enumerate(failures)]
    assert reasons(trials) == "nan: loss nan; timeout: slow"
    assert reasons(trial(i, Failure("exception", f"fault {i}")) for i in range(5)).count(";") == 2
    assert reasons([]) == ""
