"""A small residual network for the digits, all of whose blocks could be done without, and its training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.pruning.training.penalties import Penalty
from autoprune.tasks.base import Hook
from autoprune.tasks.datasets.digits import DigitsTask
from autoprune.tasks.metrics import top_1
from autoprune.tasks.training.loop import seeded


class Block(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def residual() -> nn.Module:
    """`[n, 1, 8, 8]` to `[n, 10]`; the blocks are modules 3 to 5."""
    stem = (nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(*stem, Block(8), Block(8), Block(8), nn.Flatten(), nn.Linear(128, 10))


def fresh_residual() -> nn.Module:
    with seeded(0):
        return residual()


def train_on_digits(network: nn.Module, steps: int, penalty: Penalty | None) -> None:
    plan = TrainingPlan(steps=steps, rate=0.1, batch_size=64)

    def after_step(network: nn.Module, step: int, steps: int, loss: float) -> None:
        assert penalty is not None
        rate = plan.rate * (1 + math.cos(math.pi * (step - 1) / steps)) / 2
        penalty.step(rate / (1 - plan.momentum))

    hooks = [Hook(loss_term=lambda *_: penalty.term(), after_step=after_step)] if penalty else []
    DigitsTask(residual).train(network, plan, hooks)


def digits_accuracy(network: nn.Module) -> float:
    task = DigitsTask(residual)
    with torch.no_grad():
        hits = torch.cat([top_1(network(inputs), targets) for inputs, targets in task.batches("test", 200)])
    return float(hits.mean())
