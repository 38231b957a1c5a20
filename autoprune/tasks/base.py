"""What autoprune needs to know of a network, its data and its purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor, nn

Split = Literal["train", "plain", "validation", "test"]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train: SGD with momentum and a cosine rate without restarts, unless a task differs.

    Attributes:
        steps: optimizer steps; where None, `epochs` passes over the training images (a fraction is allowed).
        rate: the first and highest learning rate; it falls to 0 along half a cosine.
        batch: images a step.
        seed: draws the order and the augmentation of the images.
    """

    steps: int | None = None
    epochs: float = 1.0
    rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch: int = 128
    seed: int = 0


def _no_loss_term(network: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor | None:
    return None


def _nothing(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Hook:
    """What acts inside training: functions called in this order; those not given do nothing.

    Attributes:
        loss_term: `(network, inputs, outputs)` to a scalar added to the task's loss, or None.
        after_backward: `(network, step)`: gradients are there, the step is not yet taken.
        after_step: `(network, step, steps, loss)`: weights have moved; `step` counts from 1 up to `steps`.
        after_epoch: `(network, epoch)`: one whole pass over the training images ended; `epoch` counts from 1.
    """

    loss_term: Callable[[nn.Module, Tensor, Tensor], Tensor | None] = _no_loss_term
    after_backward: Callable[[nn.Module, int], None] = _nothing
    after_step: Callable[[nn.Module, int, int, float], None] = _nothing
    after_epoch: Callable[[nn.Module, int], None] = _nothing


class Task(Protocol):
    """A network with the data that trains and judges it."""

    @property
    def name(self) -> str:
        """What the task is called in records."""

    def network(self) -> nn.Module:
        """The dense network, its weights not yet loaded."""

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        """Loads weights into the network, in place; without a checkpoint the task's own, if it has any.

        Raises:
            CheckpointError: the checkpoint cannot be read, does not fit, or none was given where one is needed.
        """

    def batches(self, split: Split, size: int, seed: int = 0) -> Iterable[Batch]:
        """`(inputs, targets)` pairs of `size` samples (the last may be smaller), anew from the start at each iteration.

        `train` are the training images shuffled and augmented as in training, the same for the same seed; `plain` the
        training images as they are; `validation` may choose between candidates; `test` is only ever reported.
        """

    def loss(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def metric(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        """`[batch]` values in [0, 1], higher is better; their mean is the accuracy."""

    def train(self, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        """Trains the network in place on `train` batches, calling the hooks; it is left in evaluation mode."""
