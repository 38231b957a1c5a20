"""Loss, metrics and divergence of a network on samples."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.metrics import SHARE
from autoprune.core.trial import Score
from autoprune.errors import DataError, TaskError
from autoprune.graph.inputs import call_network
from autoprune.graph.recording.randomness import seeded
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.metrics import Metric, predictions
from autoprune.tasks.training.distillation import logits, soft_loss

log = logging.getLogger(__name__)


class MetricAccumulator:
    """Sums of an evaluation in progress; exact, so that the order of the batches does not matter.

    Args:
        task: gives loss and metrics.
        teacher_logits: of each batch, in order, the dense network's outputs, from which the divergence is measured;
            None measures none.
    """

    def __init__(self, task: Task, teacher_logits: Sequence[Tensor] | None = None) -> None:
        self._task, self._teacher_logits = task, teacher_logits
        self._losses: list[float] = []
        self._divergences: list[float] = []
        self._means: dict[str, list[float]] = {each.name: [] for each in task.metrics if not each.accumulates}
        self._objects = {each.name: each.accumulator() for each in task.metrics if each.accumulates}
        self.samples = 0

    def add(self, outputs: Any, targets: Any, count: int, number: int) -> None:
        """Adds a batch.

        Args:
            outputs: whatever the network gives.
            targets: whatever the task has for them.
            count: samples in it.
            number: of the batch, from 0, in the order of the teacher's outputs.
        """
        seen = predictions(outputs)
        for metric in self._task.metrics:
            if metric.accumulates:
                with metric.named():
                    self._objects[metric.name].update(seen, targets)
            else:
                self._means[metric.name].append(metric.batch_mean(seen, targets, count) * count)
        divergence: float | None = None
        if self._teacher_logits is not None:
            divergence = float(soft_loss(logits(outputs, "objective kl"), self._teacher_logits[number], 1.0))
            self._divergences.append(divergence * count)
        self._losses.append(self._loss(outputs, targets, divergence) * count)
        self.samples += count

    def _loss(self, outputs: Any, targets: Any, divergence: float | None) -> float:
        """Returns the mean loss of a batch; without targets that it needs the divergence, if that is measured."""
        try:
            return _scalar(self._task.loss(outputs, targets))
        except TaskError:
            if targets is not None or divergence is None:
                raise
            return divergence

    def _value(self, metric: Metric) -> float:
        if not metric.accumulates:
            return _sum(self._means[metric.name]) / self.samples
        with metric.named():
            computed = self._objects[metric.name].compute()
        return metric.result(computed)

    def score(self, rungs: tuple[Score, ...] = ()) -> Score:
        """Returns the values over the samples so far; not a number if the network gives none.

        Raises:
            DataError: there were no samples.
        """
        if not self.samples:
            raise DataError(f"task {self._task.name} gave no samples to evaluate on")
        metrics = {metric.name: self._value(metric) for metric in self._task.metrics}
        kl = _sum(self._divergences) / self.samples if self._teacher_logits is not None else None
        return Score(_sum(self._losses) / self.samples, metrics, self.samples, kl, rungs)


def _scalar(loss: Any) -> float:
    if not isinstance(loss, (Tensor, float, int)):
        raise TaskError(f"the loss should be a scalar, the mean over the batch, but is a {type(loss).__name__}")
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise TaskError(f"the loss should be a scalar, the mean over the batch, but has shape {list(loss.shape)}")
    return float(loss)


def _sum(parts: Sequence[float]) -> float:
    """Returns the sum, rounded once; NaN where it is no number."""
    try:
        return math.fsum(parts)
    except (ValueError, OverflowError):  # infinities of both signs, or numbers too large
        return math.nan


def evaluate(
    network: nn.Module, task: Task, batches: Iterable[Batch], teacher_logits: Sequence[Tensor] | None = None
) -> Score:
    """Returns mean loss and metrics over the batches, in evaluation mode; not a number if the network gives none.

    Args:
        network: left in evaluation mode.
        task: gives loss and metrics.
        batches: pairs of inputs and targets on the network's device.
        teacher_logits: the dense network's `[batch, classes]` outputs of each batch, from which the divergence is
            measured; None measures none.
    """
    network.eval()
    metrics = MetricAccumulator(task, teacher_logits)
    with torch.inference_mode(), seeded(0):  # all networks draw the same random numbers, if any
        for batch, (inputs, targets) in enumerate(batches):
            metrics.add(call_network(network, inputs), targets, len(inputs), batch)
    return metrics.score()


def check_metrics(task: Task, score: Score, network: nn.Module, batch: Batch) -> None:
    """Checks once, on the dense network, that the metrics say something.

    What is odd and may be meant is a warning: one number for a whole batch, or the same for other samples' outputs, or
    a loss that sums up; of both, that samples are compared with one another.

    Args:
        task: gives the metrics.
        score: of the dense network.
        network: that network, left in evaluation mode.
        batch: of the samples that were scored.

    Raises:
        TaskError: a metric is out of its range.
    """
    for metric in task.metrics:
        low, high = metric.range or (None, None)
        value = score.metrics[metric.name]
        if (low is not None and value < low) or (high is not None and value > high):
            hint = f"; without unit={metric.unit!r} it may be any number" if metric.unit == SHARE else ""
            raise TaskError(
                f"metric {metric.name!r} is {value:.6g} for the dense network, but should be in [{low}, {high}]{hint}"
            )
    inputs, targets = batch
    with torch.inference_mode(), seeded(0):
        given = call_network(network.eval(), inputs)
    if doubt := _summation(task.loss) or _broadcasts(task.loss, given, targets):
        log.warning("the loss %s", doubt)
    outputs = predictions(given)
    for metric in task.metrics:
        if not metric.accumulates and len(inputs) > 1 and (doubt := _doubt(metric, outputs, targets)):
            log.warning("metric %r %s", metric.name, doubt)


def _doubt(metric: Metric, outputs: Any, targets: Any) -> str:
    """Returns what is odd about a metric that is a function, on outputs and targets of several samples."""
    values = metric.values(outputs, targets)
    if values.numel() == 1:
        if doubt := _broadcasts(metric.values, outputs, targets):
            return doubt
        return "gives one number for a batch: the mean over the batches is taken, weighted by their samples"
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return ""
    several = all(bool((each != each[:1]).any()) for each in (outputs, targets))
    others = (metric.values(each, targets) for each in _others(outputs))
    if several and all(torch.equal(values, each) for each in others):
        return "is the same for other outputs; does it look at them?"
    return ""


def _summation(loss: Callable[..., Any]) -> str:
    """Returns what is wrong with a loss of torch that is a sum over the batch; empty where nothing is."""
    said = getattr(loss, "keywords", {}).get("reduction", getattr(loss, "reduction", None))
    return "is a sum over the batch and taken for its mean; leave out reduction='sum'" if said == "sum" else ""


def _broadcasts(function: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> str:
    """Returns what is wrong where `[batch, 1]` against `[batch]` compares each sample with all others, unnoticed."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)) or outputs.numel() != targets.numel():
        return ""
    try:
        shape = np.broadcast_shapes(tuple(outputs.shape), tuple(targets.shape))
    except ValueError:
        return ""
    if math.prod(shape) == outputs.numel():
        return ""
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's own, of some of its losses
            changed = (outputs, outputs.roll(1, 0), outputs.reshape(targets.shape))
            found, exchanged, alike = (float(function(each, targets)) for each in changed)
    except Exception:  # a function of the user's, which has the shapes as it needs them
        return ""
    same = partial(math.isclose, rel_tol=1e-4, abs_tol=1e-8)
    if not same(found, exchanged) or same(found, alike):  # it knows whose target is whose
        return ""
    return (
        f"compares each sample with all others: outputs {list(outputs.shape)} and targets {list(targets.shape)} are "
        f"broadcast to {list(shape)}; give both the same shape, say outputs.reshape(targets.shape)"
    )


def _others(outputs: Tensor) -> Iterator[Tensor]:
    """Yields outputs of other samples, and those with other classes in their places: one class may be all there is."""
    for shift in range(min(8, outputs.shape[1]) if outputs.dim() > 1 else 1):
        yield outputs.roll((1, shift), (0, 1)) if shift else outputs.roll(1, 0)


def zeros_in(network: nn.Module) -> float:
    """Returns the share of zeros among the weights of two or more dimensions."""
    weights = [parameter for parameter in network.parameters() if parameter.dim() > 1]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return zeros / max(1, sum(weight.numel() for weight in weights))
