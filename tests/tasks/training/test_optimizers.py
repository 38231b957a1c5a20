from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import pytest
import torch
from torch import nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.training.optimizers import build_optimizer, rate_at, rate_of, set_rate


def _stepped(optimizer: Literal["sgd", "adam", "adamw"], gradients: tuple[float, ...]) -> tuple[float, float]:
    """Weight and bias, both 1 at first, after steps with these gradients."""
    network = nn.Linear(1, 1)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    made = build_optimizer(network, TrainingPlan(rate=0.1, momentum=0.8, weight_decay=0.5, optimizer=optimizer))
    for gradient in gradients:
        network.weight.grad, network.bias.grad = torch.tensor([[gradient]]), torch.tensor([gradient])
        made.step()
    return network.weight.item(), network.bias.item()


def _sgd(gradients: tuple[float, ...], decay: float) -> float:
    weight, velocity = 1.0, 0.0
    for gradient in gradients:
        velocity = 0.8 * velocity + gradient + decay * weight
        weight -= 0.1 * velocity
    return weight


def _adam(gradients: tuple[float, ...], decay: float, decoupled: bool) -> float:
    weight, mean, square = 1.0, 0.0, 0.0
    for step, given in enumerate(gradients, 1):
        gradient = given if decoupled else given + decay * weight
        weight -= 0.1 * decay * weight if decoupled else 0
        mean, square = 0.8 * mean + 0.2 * gradient, 0.999 * square + 0.001 * gradient**2
        weight -= 0.1 * (mean / (1 - 0.8**step)) / (math.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return weight


def test_steps_are_those_of_the_papers_and_biases_do_not_decay() -> None:
    gradients = (0.3, -0.2, 0.7)
    assert _stepped("sgd", gradients) == pytest.approx((_sgd(gradients, 0.5), _sgd(gradients, 0.0)))
    for name, decoupled in (("adam", False), ("adamw", True)):
        expected = _adam(gradients, 0.5, decoupled), _adam(gradients, 0.0, decoupled)
        assert _stepped(name, gradients) == pytest.approx(expected)  # type: ignore[arg-type]


def test_rate_is_given_to_all_groups() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), TrainingPlan())
    set_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
    assert rate_of(optimizer) == 0.125


def test_frozen_parameters_are_left_out_and_a_frozen_network_is_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    groups = build_optimizer(network, TrainingPlan()).param_groups
    assert [parameter for group in groups for parameter in group["params"]] == [network[1].weight, network[1].bias]
    with pytest.raises(TaskError, match="no parameter that requires a gradient"):
        build_optimizer(network.requires_grad_(False), TrainingPlan())


def _rates(plan: TrainingPlan, steps: int) -> list[float]:
    return [rate_at(plan, step, steps) for step in range(1, steps + 1)]


def test_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=17)
    expected = []
    for _ in range(17):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert _rates(TrainingPlan(rate=0.3), 17) == pytest.approx(expected)


def test_cosine_without_warmup_is_bit_for_bit_the_formula() -> None:
    expected = [0.02 * (1 + math.cos(math.pi * step / 391)) / 2 for step in range(391)]
    assert _rates(TrainingPlan(rate=0.02), 391) == expected


def test_constant_never_falls() -> None:
    assert _rates(TrainingPlan(rate=0.3, schedule="constant"), 5) == [0.3] * 5


def test_milestones_multiply_the_rate_after_their_part_of_the_run() -> None:
    plan = TrainingPlan(rate=1.0, schedule="steps", milestones=(0.3, 0.55), factor=0.5)
    assert _rates(plan, 10) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("tenths", [1, 3, 6, 7, 9])
@pytest.mark.parametrize("steps", [10, 30, 70, 490, 12810])
def test_rounding_of_a_milestone_or_warmup_costs_no_step(tenths: int, steps: int) -> None:
    whole = int(Fraction(tenths, 10) * steps)
    falling = TrainingPlan(rate=1.0, schedule="steps", milestones=(tenths / 10,))
    assert _rates(falling, steps).count(1.0) == whole
    rising = TrainingPlan(rate=1.0, schedule="constant", warmup=tenths / 10)
    assert sum(rate < 1 for rate in _rates(rising, steps)) == whole


def test_warmup_rises_linearly_and_the_schedule_follows_it() -> None:
    constant = TrainingPlan(rate=0.8, schedule="constant", warmup=0.3)
    assert _rates(constant, 10) == pytest.approx([0.2, 0.4, 0.6] + [0.8] * 7)
    cosine = _rates(TrainingPlan(rate=0.8, warmup=0.3), 10)
    assert cosine[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert cosine[3:] == pytest.approx(_rates(TrainingPlan(rate=0.8), 7))
    steps = TrainingPlan(rate=0.8, schedule="steps", milestones=(0.5,), warmup=0.3)
    assert _rates(steps, 10) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8] + [0.08] * 5)


def test_even_the_longest_warmup_and_the_shortest_run_have_a_rate() -> None:
    for steps in (1, 2, 7):
        assert all(0 < rate <= 0.02 for rate in _rates(TrainingPlan(warmup=0.999999), steps))
