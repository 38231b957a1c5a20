"""What autoprune needs to know of a network, its data and its purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.tasks.metrics import Metric

Split = Literal["train", "plain", "validation", "test"]
Batch = tuple[Any, Any]
"""Inputs, with which a network is called as `ModelInputs.of` says, and targets: tensors, nested as they may be, a list
with an entry for each sample, or None."""


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Hook:
    """What acts inside training: functions that a training loop calls; those not given do nothing.

    At each event all hooks are called, in the order of the list, before the next event: on_start once, then for every
    step of the optimizer loss_term, after_backward, after_step, after_epoch where a pass ends, and at_rest. A task's
    own loop may leave out on_start and at_rest: only hooks that say so need them. `docs/training.md` has such a loop.

    Attributes:
        loss_term: `(network, inputs, outputs)` to a scalar added to the task's loss, or None; the inputs are a tensor,
            or `ModelInputs` where the task's are something else. Where a step accumulates the gradients of several
            batches it is called for each, and its term is averaged over them as the loss is.
        after_backward: `(network, step)`: the gradients of the whole step are there, as they are without a scaler and
            before they are clipped; the step is not yet taken.
        after_step: `(network, step, steps, loss)`: weights have moved; `step` counts from 1 up to `steps`.
        after_epoch: `(network, epoch)`: one whole pass over the training samples ended; `epoch` counts from 1.
        on_start: `(network, optimizer, steps)`: before the first step of this call, which need not be step 1; `steps`
            is the number of the last. The optimizer may be kept: to read the rate, to load or change its state.
        at_rest: `(network, step, steps)`: all that belongs to the step is done, and to the epoch if one ended with it;
            what is stored now can be resumed from.
    """

    loss_term: Callable[[nn.Module, Any, Tensor], Tensor | None] = _nothing
    after_backward: Callable[[nn.Module, int], None] = _nothing
    after_step: Callable[[nn.Module, int, int, float], None] = _nothing
    after_epoch: Callable[[nn.Module, int], None] = _nothing
    on_start: Callable[[nn.Module, torch.optim.Optimizer, int], None] = _nothing
    at_rest: Callable[[nn.Module, int, int], None] = _nothing

    def acts_at(self, event: str) -> bool:
        """Returns whether there is a function for an event, by its name."""
        return getattr(self, event) is not _nothing


def together(hooks: Sequence[Hook]) -> Hook:
    """Returns one hook that calls all of them, in their order; its loss term is the sum of theirs."""

    def call_all(event: str) -> Callable[..., None]:
        def call(*values: Any) -> None:
            for hook in hooks:
                getattr(hook, event)(*values)

        return call

    def loss_term(network: nn.Module, inputs: Any, outputs: Any) -> Tensor | None:
        found = (hook.loss_term(network, inputs, outputs) for hook in hooks)
        terms = [term for term in found if term is not None]
        return sum(terms[1:], start=terms[0]) if terms else None

    return Hook(loss_term, *map(call_all, ("after_backward", "after_step", "after_epoch", "on_start", "at_rest")))


class Task(Protocol):
    """A network with the data that trains and evaluates it."""

    @property
    def name(self) -> str:
        """What the task is called in records."""

    def network(self) -> nn.Module:
        """Returns the dense network, its weights not yet loaded."""

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        """Loads weights into the network, in place; without a checkpoint the task's own, if it has any.

        Raises:
            CheckpointError: the checkpoint cannot be read, does not fit, or none was given where one is needed.
        """

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        """Returns pairs `(inputs, targets)` of `batch_size` samples (the last may be smaller).

        Inputs are a tensor, a tuple of positional or a mapping of keyword arguments, or whatever else is one argument.
        Each iteration begins anew. `train` are the training samples shuffled and augmented as in training, the same for
        the same seed; `plain` the training samples as they are; `validation` may choose between candidates; `test` is
        only ever reported.

        Where part of a split is used, it is drawn from the whole: from a list by its batches' samples, from what has a
        method `draw` by that (see `DrawableBatches`), from anything else as it passes by.

        Args:
            split: which samples.
            batch_size: samples in a batch.
            seed: of the order and the augmentation of `train`, and of draws.
        """

    def loss(self, outputs: Any, targets: Any, /) -> Tensor:
        """Returns the mean loss of a batch, a scalar `[]`, of outputs and targets of its samples."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """What else networks are measured by; the first describes a network where there is room for one."""

    def train(self, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        """Trains the network in place on `train` batches, calling the hooks; it is left in evaluation mode.

        Gradients are to be on in it, whatever the caller has switched off.

        Args:
            network: on any device.
            plan: how long, by which optimizer, at which rate and on batches of which size.
            hooks: called in their order at every event; see `Hook`.
        """
