"""The batches of a training, step by step: passes over the training samples, each in an order of its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.graph.inputs import network_inputs
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.loading.samples import join

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """What one step trains on.

    Attributes:
        number: from 1 over the whole plan.
        epoch: the pass that it belongs to, from 1.
        ends_epoch: whether that pass ends with it.
        batches: whose gradients it averages.
    """

    number: int
    epoch: int
    ends_epoch: bool
    batches: Sequence[Batch]


def count_steps(task: Task, plan: TrainingPlan, network: nn.Module) -> int:
    """Returns the number of a plan's last step: its own, or that of `epochs` passes, rounded up.

    Training batches are counted by going through them once where their length does not say it.

    Args:
        task: its training batches are counted.
        plan: how long, on batches of which size.
        network: that is trained: where it takes statistics of batches, a rest of one sample is no batch of its own.

    Raises:
        TaskError: the plan begins after its last step.
    """
    steps = plan.steps
    if steps is None:
        batches = task.batches("train", plan.batch_size, plan.seed)
        steps = math.ceil((plan.epochs or 1.0) * _steps_of_pass(batches, plan, network) - 1e-9)
    if plan.begin > steps:
        raise TaskError(f"training should begin after step {plan.begin}, but the plan has only {steps} steps")
    return steps


def remaining_steps(task: Task, plan: TrainingPlan, network: nn.Module, steps: int) -> Iterator[Step]:
    """Yields what comes after the plan's first `begin` steps; of whole passes with a length no batch is made.

    Args:
        task: gives the batches.
        plan: how many a step takes, and of which size.
        network: that is trained on them, see `count_steps`.
        steps: the number of the last step.
    """
    if plan.begin == 0:
        return _numbered(task, plan, network, steps)
    batches = task.batches("train", plan.batch_size, plan.seed)
    length = _steps_of_pass(batches, plan, network) if isinstance(batches, Sized) else 0
    epochs = plan.begin // length if length else 0
    remaining = _numbered(task, plan, network, steps, epochs * length, epochs)
    for _ in range(epochs * length, plan.begin):
        next(remaining)
    return remaining


def _numbered(
    task: Task, plan: TrainingPlan, network: nn.Module, steps: int, number: int = 0, epoch: int = 0
) -> Iterator[Step]:
    """Yields the steps after step `number`, which ended pass `epoch`."""
    while number < steps:
        epoch += 1
        begun = number
        batches = task.batches("train", plan.batch_size, derive_seed(plan.seed, epoch))
        for group, ends_epoch in _grouped(batches, plan.accumulate, takes_batch_statistics(network)):
            number += 1
            yield Step(number, epoch, ends_epoch, group)
            if number == steps:
                return
        if number == begun:
            raise TaskError(f"task {task.name!r} has no training batches; `batches('train', ...)` came back empty")


def _grouped(batches: Iterable[Batch], size: int, joins: bool) -> Iterator[tuple[list[Batch], bool]]:
    """Yields the batches of each step of a pass, and whether the pass ends with it.

    Args:
        batches: of a whole pass.
        size: batches a step.
        joins: whether a rest of one sample is joined to the batch before it.
    """
    group: list[Batch] = []
    rest: list[Batch] = []  # one sample behind larger batches: the last of the pass, unless another batch follows
    for batch in batches:
        if joins and group and not rest and _samples(batch) == 1 < _samples(group[-1]):
            rest = [batch]
            continue
        for each in (*rest, batch):
            if len(group) == size:
                yield group, False
                group = []
            group.append(each)
        rest = []
    if rest:
        group[-1] = _joined(group[-1], rest[0])
    if group:
        yield group, True


def _steps_of_pass(batches: Iterable[Batch], plan: TrainingPlan, network: nn.Module) -> int:
    """Returns how many steps one pass over the batches has."""
    joins = takes_batch_statistics(network)
    joined = _ends_with_one(batches) if joins else False
    if not isinstance(batches, Sized) or joined is None:
        return sum(1 for _ in _grouped(batches, plan.accumulate, joins))
    return math.ceil((len(batches) - joined) / plan.accumulate)


def _ends_with_one(batches: Iterable[Batch]) -> bool | None:
    """Returns whether the last batch is a rest of one sample; None where only going through them tells."""
    if isinstance(batches, Sequence):
        return len(batches) > 1 and _samples(batches[-1]) == 1 < _samples(batches[-2])
    told: bool | None = getattr(batches, "ends_with_one", None)
    return ends_with_one(batches) if isinstance(batches, DataLoader) else told


def ends_with_one(loader: DataLoader[Batch]) -> bool | None:
    """Returns whether a loader's last batch is a rest of one sample; None where only going through it tells."""
    if loader.batch_size is None or not isinstance(loader.sampler, Sized):
        return None
    count = len(loader.sampler)
    return not loader.drop_last and count > loader.batch_size > 1 and count % loader.batch_size == 1


def takes_batch_statistics(network: nn.Module) -> bool:
    """Returns whether the network has batch norm, which in training needs more than one sample a batch."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def _samples(batch: Batch) -> int:
    return len(network_inputs(*batch))


def samples_of(batches: Sequence[Batch]) -> list[int]:
    """Returns how many samples each batch has."""
    return [_samples(batch) for batch in batches]


def _joined(batch: Batch, rest: Batch) -> Batch:
    """Returns the samples of both; those of the first alone, with a warning, where they are of different shapes."""
    try:
        return join([batch, rest])
    except (ValueError, TaskError) as fault:
        log.warning("the last training sample of a pass, a batch of its own, is left out: %s", fault)
        return batch


def derive_seed(*parts: int) -> int:
    """Returns a seed for one use out of several numbers: (seed, epoch), say."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
