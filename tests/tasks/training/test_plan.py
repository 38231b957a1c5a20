from __future__ import annotations

import subprocess
import sys

import pytest

from autoprune.errors import TaskError
from autoprune.tasks.training.plan import TrainingPlan


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "rate should be above 0 but is 0.0"),
        ({"rate": float("inf")}, "rate should be above 0 and finite but is inf"),
        ({"epochs": float("nan")}, "epochs should be at least 0 and finite but is nan"),
        ({"steps": -1}, "steps should be at least 0 but is -1"),
        ({"batch_size": 0}, "batch_size should be at least 1 but is 0"),
        ({"momentum": 1.0}, r"momentum should be in \[0, 1\) but is 1.0"),
        ({"weight_decay": -0.1}, "weight_decay should be at least 0"),
        ({"seed": -1}, "seed should be at least 0"),
        ({"warmup": 1.0}, r"warmup should be in \[0, 1\)"),
        ({"factor": 0.0}, r"factor should be in \(0, 1\]"),
        ({"begin": -2}, "begin should be at least 0 but is -2"),
        ({"optimizer": "lion"}, "optimizer should be one of sgd, adam, adamw but is 'lion'"),
        ({"schedule": "step"}, "schedule should be one of cosine, constant, steps but is 'step'"),
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
    with pytest.raises(TaskError, match=message):
        TrainingPlan(**settings)  # type: ignore[arg-type]


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(TaskError, match=r"rate should .*; the training plan's optimizer should"):
        TrainingPlan(rate=-1.0, optimizer="lion")  # type: ignore[arg-type]


def test_bounds_that_mean_something_are_allowed() -> None:
    TrainingPlan(steps=0, epochs=0, momentum=0.0, weight_decay=0.0, batch_size=1, factor=1.0)
    TrainingPlan(schedule="steps", milestones=(0.2, 0.9), warmup=0.2)


def test_plans_are_made_and_checked_without_torch() -> None:
    code = "import sys, autoprune.tasks.training.plan as plan; plan.TrainingPlan(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
