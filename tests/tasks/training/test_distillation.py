from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.base import Hook
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training.distillation import distillation, logits, soft_loss
from autoprune.tasks.training.loop import seeded, train

INPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
DATA = [(INPUTS, torch.tensor([0, 1, 2, 3, 0, 1]))]


def _network(seed: int) -> nn.Sequential:
    with seeded(seed):
        return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 4))


def _softened(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(logit / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def _slow(student: Tensor, teacher: Tensor, temperature: float, weight: float) -> float:
    total = 0.0
    for given, wanted in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = _softened(given, temperature), _softened(wanted, temperature)
        total += sum(p_i * math.log(p_i / q_i) for p_i, q_i in zip(p, q, strict=True))
    return weight * temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_term_is_that_of_a_loop_over_samples_and_classes(temperature: float) -> None:
    student, teacher = _network(1).eval(), _network(2).eval()
    outputs = student(INPUTS)
    term = distillation(teacher, temperature, 0.7).loss_term(student, INPUTS, outputs)
    assert term is not None
    assert term.item() == pytest.approx(_slow(outputs, teacher(INPUTS), temperature, 0.7), rel=1e-4)


def test_student_that_is_the_teacher_has_no_loss_and_every_other_has() -> None:
    teacher = _network(2).eval()
    same = distillation(teacher, 2.0, 1.0).loss_term(teacher, INPUTS, teacher(INPUTS))
    other = distillation(teacher, 2.0, 1.0).loss_term(teacher, INPUTS, _network(1).eval()(INPUTS))
    assert same is not None
    assert other is not None
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert other.item() > 0.01


def test_teacher_is_neither_changed_nor_followed_when_its_owner_changes_it() -> None:
    teacher = _network(2).train()
    hook = distillation(teacher, 2.0, 1.0)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    outputs = torch.zeros(6, 4, requires_grad=True)
    first = hook.loss_term(teacher, INPUTS, outputs)
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    with torch.no_grad():
        teacher[0].weight.zero_()
    again = hook.loss_term(teacher, INPUTS, outputs)
    assert first is not None
    assert again is not None
    assert torch.equal(first, again)
    first.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_training_with_a_teacher_brings_the_student_near_it() -> None:
    teacher, student = _network(2), _network(1)
    losses: list[float] = []

    def silent(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum() * 0

    report = Hook(after_step=lambda network, step, steps, loss: losses.append(loss))
    task = SimpleTask(lambda: _network(1), DATA, DATA, loss=silent)
    hooks = [distillation(teacher, 2.0, 1.0), report]
    train(student, task, TrainingPlan(steps=60, rate=0.05, momentum=0.0), hooks)
    means = [sum(losses[begin : begin + 20]) / 20 for begin in (0, 20, 40)]
    assert all(before > after for before, after in pairwise(means))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.zeros(6, 3), r"gives \[6, 4\] and the network \[6, 3\]"),
        (torch.zeros(6, 4, 2), r"the network gives \[6, 4, 2\]"),
        ((6, 4), "the network gives a tuple"),
        (torch.zeros(6, 1), r"compares at least two classes, but the network gives one output \[6, 1\]"),
    ],
)
def test_outputs_that_are_no_logits_of_the_same_classes_are_refused(outputs: Tensor, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        distillation(_network(2), 2.0, 1.0).loss_term(_network(1), INPUTS, outputs)


def test_logits_are_found_in_outputs_and_divergence_is_the_mean_over_places() -> None:
    student, teacher = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    found = [logits({"logits": each, "hidden": None}, "this") for each in (student, teacher)]
    expected = soft_loss(student.flatten(0, 1), teacher.flatten(0, 1), 2.0)
    torch.testing.assert_close(soft_loss(*found, 2.0), expected)
    assert logits((student[:, 0], teacher), "this") is not student


def test_numbers_out_of_range_are_refused() -> None:
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(TaskError, match="temperature should be above 0"):
            distillation(_network(2), temperature, 1.0)
    with pytest.raises(TaskError, match="weight should be at least 0"):
        distillation(_network(2), 1.0, -0.5)
