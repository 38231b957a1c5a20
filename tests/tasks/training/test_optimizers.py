from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.training.optimizers import build_optimizer, rate_of, set_rate


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
