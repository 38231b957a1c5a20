from __future__ import annotations

import pytest

from autoprune.commands.apply import parse_plan
from autoprune.errors import UserError
from autoprune.tasks.training.plan import TrainingPlan


def test_every_setting_but_the_first_step_is_reached_with_its_type() -> None:
    plan = parse_plan(
        "steps=50,epochs=2,rate=0.02,momentum=0.8,weight_decay=0,batch_size=64,seed=3,optimizer=adamw,schedule=steps,"
        "milestones=0.5+0.75,factor=0.2,warmup=0.1,channels_last=true,distill=0.9,temperature=3"
    )
    assert plan == {
        "steps": 50, "epochs": 2.0, "rate": 0.02, "momentum": 0.8, "weight_decay": 0.0, "batch_size": 64, "seed": 3,
        "optimizer": "adamw", "schedule": "steps", "milestones": (0.5, 0.75), "factor": 0.2, "warmup": 0.1,
        "channels_last": True, "distill": 0.9, "temperature": 3.0,
    }  # fmt: skip
    assert set(plan) == (set(TrainingPlan.__dataclass_fields__) - {"begin"}) | {"distill", "temperature"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate=fast", "rate should be a number but is 'fast'"),
        ("batch_size=1.5", "batch_size should be a whole number but is '1.5'"),
        ("milestones=0.5/0.75", r"milestones should be numbers with \+ between them"),
        ("channels_last=yes", "channels_last should be true or false but is 'yes'"),
        ("begin=3", "unknown setting 'begin'"),
        ("optimizer=lion", "optimizer should be one of sgd, adam, adamw but is 'lion'"),
        ("schedule=steps", "needs milestones"),
        ("milestones=0.5", "milestones belong to the schedule 'steps'"),
        ("warmup=1", "warmup should be in"),
        ("rate=0", "rate should be above 0"),
        ("steps=0", "steps should be above 0"),
        ("epochs=0", "epochs should be above 0"),
        ("distill=0", "distill should be above 0"),
        ("distill=nan", "distill should be above 0 and finite but is nan"),
        ("distill=1,temperature=-2", "temperature should be above 0 and finite but is -2"),
        ("temperature=2", "temperature belongs to distill, which is not given"),
    ],
)
def test_faults_name_the_option_the_setting_and_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--finetune {text}: .*{message}".replace("+0", r"\+0")):
        parse_plan(text)
