"""Tasks whose evaluation takes next to nothing, or a known time: what is left is autoprune's own."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autoprune import SimpleTask

GROUPS = 60
SECONDS = 5.0
"""What a trial of `sleeping` takes."""


class Deep(nn.Module):
    """A chain of narrow linear layers: `GROUPS` groups that may be pruned, next to nothing to compute."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(16, 16) for _ in range(GROUPS + 1)])
        self.head = nn.Linear(16, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = torch.relu(layer(inputs)) + 0.1
        return self.head(inputs)


def _data(size: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(size)
    return TensorDataset(torch.randn(size, 16, generator=generator), torch.arange(size) % 4)


def _sleepy(outputs: Tensor, targets: Tensor) -> Tensor:
    time.sleep(SECONDS)
    return nn.functional.cross_entropy(outputs, targets)


many_groups = SimpleTask(Deep, _data(64), _data(32))
sleeping = SimpleTask(Deep, _data(64), _data(32), loss=_sleepy)
