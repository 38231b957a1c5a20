from __future__ import annotations

import json
import subprocess
import sys

import pytest

from autoprune.core.fields import FieldError
from autoprune.core.recipe import AdmmTraining, Finetune, Recipe, Training, TrainingPlan


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "rate should be above 0 and finite but is 0.0"),
        ({"rate": float("inf")}, "rate should be above 0 and finite but is inf"),
        ({"epochs": float("nan")}, "epochs should be above 0 and finite but is nan"),
        ({"steps": -1}, "steps should be at least 1 but is -1"),
        ({"batch_size": 0}, "batch_size should be at least 1 but is 0"),
        ({"momentum": 1.0}, "momentum should be at least 0 and below 1 but is 1.0"),
        ({"weight_decay": -0.1}, "weight_decay should be at least 0"),
        ({"seed": -1}, "seed should be at least 0"),
        ({"warmup": 1.0}, "warmup should be at least 0 and below 1"),
        ({"factor": 0.0}, "factor should be above 0 and at most 1"),
        ({"begin": -2}, "begin should be at least 0 but is -2"),
        ({"optimizer": "lion"}, "optimizer should be one of sgd, adam, adamw but is 'lion'"),
        ({"schedule": "step"}, "schedule should be one of cosine, constant, steps but is 'step'"),
        ({"steps": 3, "epochs": 1}, "should have steps or epochs but has both"),
        ({"steps": 2.5}, "steps should be a whole number but is 2.5"),
        ({"channels_last": 1}, "channels_last should be true or false but is 1"),
        ({"schedule": "steps"}, "needs milestones"),
        ({"milestones": (0.5,)}, "milestones belong to the schedule 'steps', but it is 'cosine'"),
        ({"schedule": "steps", "milestones": (0.5, 0.5)}, "ascending numbers between 0 and 1"),
        ({"schedule": "steps", "milestones": (0.5, 1.0)}, "ascending numbers between 0 and 1"),
        ({"schedule": "steps", "milestones": (0.1, 0.5), "warmup": 0.2}, "after the warm-up"),
    ],
)
def test_bad_values_are_refused_and_the_message_says_what_was_expected(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(FieldError, match=message):
        TrainingPlan(**settings)  # type: ignore[arg-type]


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(FieldError, match=r"rate should .*; optimizer should"):
        TrainingPlan(rate=-1.0, optimizer="lion")  # type: ignore[arg-type]


def test_bounds_that_mean_something_are_allowed() -> None:
    TrainingPlan(momentum=0.0, weight_decay=0.0, batch_size=1, factor=1.0)
    TrainingPlan(schedule="steps", milestones=(0.2, 0.9), warmup=0.2)


def test_plans_are_made_and_checked_without_torch() -> None:
    code = "import sys, autoprune.core.recipe as plan; plan.TrainingPlan(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_a_training_of_candidates_needs_a_length() -> None:
    for kind in (Training, Finetune, AdmmTraining):
        with pytest.raises(FieldError, match="needs steps or epochs but has neither"):
            kind()
    assert Finetune(epochs=1.5, batch_size=64).in_steps(lambda training: int(96 * (training.epochs == 1.5))) == (
        Finetune(steps=96, batch_size=64)
    )


def test_the_plan_of_a_training_says_the_same_with_a_seed() -> None:
    training = AdmmTraining(steps=5, schedule="steps", milestones=(0.5,), distill=0.3, rho=2.0)
    plan = TrainingPlan(steps=5, rate=0.2, momentum=0.0, schedule="steps", milestones=(0.5,), seed=7)
    assert training.plan(7) == plan


def test_a_recipe_reads_back_equal_from_json_and_says_only_what_is_done() -> None:
    assert Recipe().to_json() == {"recalibrate": 512, "augment": True}
    finetune = Finetune(steps=5, schedule="steps", milestones=(0.25, 0.5), distill=0.5)
    recipe = Recipe(0, False, 64, finetune, AdmmTraining(epochs=2), consumers_only=True)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_a_step_that_accumulates_costs_all_its_batches() -> None:
    one, four = Finetune(steps=5, distill=0.5), Finetune(steps=5, distill=0.5, accumulate=4)
    assert four.work(10, 30) == 4 * one.work(10, 30)
