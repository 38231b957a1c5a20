"""Loss, accuracy and divergence of a network on samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from autoprune.core.trial import Score
from autoprune.errors import DataError
from autoprune.graph.inputs import call_network
from autoprune.graph.recording.randomness import seeded
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.metrics import applicable_top_k, top_k
from autoprune.tasks.training.distillation import soft_loss

OnBatch = Callable[[Tensor, Tensor], None]
"""Takes the outputs and targets of each batch."""


class MetricAccumulator:
    """Sums of an evaluation in progress; exact, so that the order of the batches does not matter.

    Args:
        teacher_logits: of each batch, in order, the dense network's outputs, from which the divergence is measured;
            None measures none.
    """

    def __init__(self, task: Task, teacher_logits: Sequence[Tensor] | None = None) -> None:
        self._task, self._teacher_logits = task, teacher_logits
        self._losses: list[float] = []
        self._accuracies: list[float] = []
        self._divergences: list[float] = []
        self.samples = 0

    def add(self, outputs: Tensor, targets: Tensor, count: int, number: int) -> None:
        """Adds a batch.

        Args:
            outputs: `[count, …]`.
            targets: `[count, …]`.
            count: samples in it.
            number: of the batch, from 0, in the order of the teacher's outputs.
        """
        self._losses.append(float(self._task.loss(outputs, targets)) * count)
        self._accuracies.append(float(self._task.metric(outputs, targets).double().mean()) * count)
        if self._teacher_logits is not None:
            self._divergences.append(float(soft_loss(outputs, self._teacher_logits[number], 1.0)) * count)
        self.samples += count

    def score(self, rungs: tuple[Score, ...] = ()) -> Score:
        """Returns the means over the samples so far; not a number if the network gives none.

        Raises:
            DataError: there were no samples.
        """
        if not self.samples:
            raise DataError(f"task {self._task.name} gave no samples to evaluate on")
        loss, accuracy = (_sum(parts) / self.samples for parts in (self._losses, self._accuracies))
        kl = _sum(self._divergences) / self.samples if self._teacher_logits is not None else None
        return Score(loss, accuracy, self.samples, kl, rungs)


def _sum(parts: Sequence[float]) -> float:
    """Returns the sum, rounded once; NaN where it is no number."""
    try:
        return math.fsum(parts)
    except (ValueError, OverflowError):  # infinities of both signs, or numbers too large
        return math.nan


def evaluate(
    network: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    on_batch: OnBatch = lambda *_: None,
    teacher_logits: Sequence[Tensor] | None = None,
) -> Score:
    """Returns mean loss and accuracy over the batches, in evaluation mode; not a number if the network gives none.

    Args:
        network: left in evaluation mode.
        task: gives loss and metric.
        batches: pairs of inputs and `[batch, …]` targets on the network's device.
        on_batch: called after each batch.
        teacher_logits: the dense network's `[batch, classes]` outputs of each batch, from which the divergence is
            measured; None measures none.
    """
    network.eval()
    metrics = MetricAccumulator(task, teacher_logits)
    with torch.inference_mode(), seeded(0):  # all networks draw the same random numbers, if any
        for batch, (inputs, targets) in enumerate(batches):
            outputs = call_network(network, inputs)
            on_batch(outputs, targets)
            metrics.add(outputs, targets, len(inputs), batch)
    return metrics.score()


def evaluate_with_top_5(network: nn.Module, task: Task, batches: Iterable[Batch]) -> tuple[Score, float | None]:
    """Returns the score, and the top-5 accuracy, in [0, 1]; None where there are too few classes.

    Args:
        network: left in evaluation mode.
        task: gives loss and metric.
        batches: pairs of inputs and `[batch, …]` targets on the network's device.
    """
    hits: list[Tensor] = []

    def count_hits(outputs: Tensor, targets: Tensor) -> None:
        if isinstance(outputs, Tensor) and applicable_top_k(outputs, targets, 5):
            hits.append(top_k(outputs, targets, 5))

    score = evaluate(network, task, batches, count_hits)
    return score, float(torch.cat(hits).double().mean()) if hits else None


def zeros_in(network: nn.Module) -> float:
    """Returns the share of zeros among the weights of two or more dimensions."""
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / max(1, sum(weight.numel() for weight in weights))
