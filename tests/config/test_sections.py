from __future__ import annotations

import pytest

from autoprune.config.sections import read_finetune
from autoprune.core.recipe import Finetune
from autoprune.errors import ConfigError


def test_every_setting_of_a_fine_tuning_is_reached_with_its_type() -> None:
    text = (
        "epochs=2,rate=0.2,momentum=0.8,weight_decay=0,batch_size=64,seed=3,optimizer=adamw,schedule=steps,"
        "milestones=0.5+0.75,factor=0.2,warmup=0.1,channels_last=true,distill=0.9,temperature=3"
    )
    assert read_finetune(text) == (
        Finetune(
            epochs=2.0, rate=0.2, momentum=0.8, weight_decay=0.0, batch_size=64, optimizer="adamw", schedule="steps",
            milestones=(0.5, 0.75), factor=0.2, warmup=0.1, channels_last=True, distill=0.9, temperature=3.0,
        ),
        3,
    )  # fmt: skip


def test_a_fine_tuning_without_a_length_is_one_pass() -> None:
    assert read_finetune("rate=0.1") == (Finetune(epochs=1.0, rate=0.1), 0)
    assert read_finetune("steps=5") == (Finetune(steps=5), 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate=fast", "rate: should be a number but is 'fast'"),
        ("batch_size=1.5", "batch_size: should be a whole number but is 1.5"),
        ("milestones=0.5/0.75", "should be a number but is '0.5/0.75'"),
        ("channels_last=yes", "should be true or false but is 'yes'"),
        ("begin=3", "unknown key"),
        ("steps=50,epochs=2", "should have steps or epochs but has both"),
        ("optimizer=lion", "optimizer: should be one of sgd, adam, adamw but is 'lion'"),
        ("schedule=steps", "needs milestones"),
        ("milestones=0.5", "milestones: belong to the schedule 'steps'"),
        ("warmup=1", "warmup: should be below 1"),
        ("rate=0", "rate: should be above 0"),
        ("steps=0", "steps: should be at least 1"),
        ("epochs=0", "epochs: should be above 0"),
        ("distill=nan", "distill: should be"),
        ("distill=1,temperature=-2", "temperature: should be above 0 but is -2"),
        ("temperature=2", "temperature: belongs to distill, which is not given"),
    ],
)
def test_faults_name_the_option_the_setting_and_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^--finetune .*{message}"):
        read_finetune(text)


def test_all_faults_of_a_fine_tuning_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_finetune("rate=0,optimizer=lion,stepz=3")
    assert [fault.partition(": ")[0] for fault in caught.value.faults] == [
        "--finetune rate", "--finetune optimizer", "--finetune stepz"
    ]  # fmt: skip
