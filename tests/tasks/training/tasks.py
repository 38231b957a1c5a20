"""A small network with batch norm and dropout, its batches as tasks, and training it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.tasks.base import Batch, Hook, Split, Task
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training.loop import seeded, train

DATA = [(torch.randn(4, 3, generator=torch.Generator().manual_seed(i)), torch.tensor([0, 1, 0, 1])) for i in range(5)]


def network() -> nn.Module:
    with seeded(7):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))


def network_of_one() -> nn.Module:
    """A network that takes batches of a single sample in training."""
    with seeded(7):
        return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.3))


def task_of(**changes: object) -> SimpleTask:
    return replace(SimpleTask(network, DATA, DATA), **changes)  # type: ignore[arg-type]


def trained(plan: TrainingPlan, hooks: Sequence[Hook] = (), task: Task | None = None) -> Tensor:
    trained = network()
    train(trained, task or task_of(), plan, hooks)
    return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])


class Streaming:
    """A task whose batches are a generator without a length."""

    def __init__(self, task: SimpleTask) -> None:
        self.seeds: list[int] = []
        self.name, self.network, self.load, self.loss, self.metrics, self.train = (
            task.name, task.network, task.load, task.loss, task.metrics, task.train,
        )  # fmt: skip
        self._task = task

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        self.seeds.append(seed)
        yield from self._task.batches(split, batch_size, seed)


class Counted(Streaming):
    """A task whose batches have a length."""

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        return list(self._task.batches(split, batch_size, seed))
