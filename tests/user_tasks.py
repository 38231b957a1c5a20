"""A user's own networks and data, as the tests of whole journeys name them: `tests.user_tasks:task`."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from autoprune import SimpleTask
from autoprune.tasks.training.loop import seeded

Fault = Callable[[int, Tensor], Tensor]
"""Takes how many batches were judged before, and a loss; returns the loss, changed, or raises."""

faults: list[Fault] = []
batches_seen = 0


class Tiny(nn.Module):
    """Three convolutions on 8x8 samples; `second` and `third` may be pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16)
        self.third, self.norm3 = nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, samples: Tensor) -> Tensor:
        samples = F.relu(self.norm1(self.first(samples)))
        samples = F.relu(self.norm2(self.second(samples)))
        samples = F.relu(self.norm3(self.third(samples)))
        return self.head(samples.mean((2, 3)))


class Refusing(Tiny):
    """Cannot run once `second` has lost more than half of its filters."""

    def forward(self, samples: Tensor) -> Tensor:
        if self.second.out_channels < 8:
            raise ValueError("too narrow")
        return super().forward(samples)


class Failing(nn.Module):
    """Its forward raises an error of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)

    def forward(self, samples: Tensor) -> Tensor:
        raise ValueError(f"no table for images of {samples.shape[-1]} pixels")


def tiny() -> Tiny:
    with seeded(3):
        return Tiny()


def refusing() -> Refusing:
    with seeded(3):
        return Refusing()


def crashing() -> nn.Module:
    raise RuntimeError("no network today")


def data(seed: int, size: int) -> TensorDataset:
    """Images whose class is the quarter that is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 4
    samples = torch.rand(size, 1, 8, 8, generator=generator)
    for image, label in zip(samples, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 0.5
    return TensorDataset(samples, labels)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy, spoilt by `faults`."""
    global batches_seen
    batches_seen += 1
    loss = F.cross_entropy(outputs, targets)
    for fault in faults:
        loss = fault(batches_seen - 1, loss)
    return loss


task = SimpleTask(tiny, data(0, 96), data(1, 64), data(2, 64))
without_test = SimpleTask(tiny, data(0, 96), data(1, 64))
refusing_task = SimpleTask(refusing, data(0, 96), data(1, 64), data(2, 64))
failing = SimpleTask(Failing, data(0, 96), data(1, 64))
faulty = SimpleTask(tiny, data(0, 96), data(1, 64), data(2, 64), loss=_loss)
number = 7


class Shaken(Dataset[tuple[Tensor, int]]):
    """Images moved and brightened by random numbers of every library, one generator its own."""

    def __init__(self, seed: int, size: int) -> None:
        self._data, self._own = data(seed, size), np.random.default_rng()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample, label = self._data[index]
        brighter = random.random() + float(np.random.rand()) + float(torch.rand(1)) + self._own.random()  # noqa: NPY002
        return sample + 0.05 * brighter, int(label)


def _shaken(seed: int, size: int, shuffle: bool) -> DataLoader[tuple[Tensor, int]]:
    own = torch.Generator()
    own.seed()
    return DataLoader(Shaken(seed, size), 16, shuffle=shuffle, num_workers=2, generator=own, persistent_workers=True)


def shaken() -> SimpleTask:
    """A task whose loaders have generators of their own, two processes each, and random transforms."""
    return SimpleTask(tiny, _shaken(0, 96, True), _shaken(1, 64, False))
