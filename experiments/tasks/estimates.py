"""A network's metric with its standard error, and the difference of two networks on the same samples.

Every metric here is a function of means over samples: an accuracy is one mean itself, a perplexity the exponential of
one, a macro F1 a function of how often each class is right, predicted and true. So a standard error follows from the
values of each sample by the metric's gradient (the delta method), and that of a difference is taken sample by sample:
the error of two networks that saw the same samples, not of two independent figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import autoprune


def _only(means: Tensor) -> Tensor:
    """Returns the mean `[]` of metrics that have one value for each sample."""
    return means[0]


@dataclass(frozen=True)
class Statistic:
    """How a metric follows from its samples.

    Attributes:
        values: outputs and targets of a batch to `[batch]` or `[batch, k]` values.
        of_means: their `[k]` means over all samples to the metric `[]`.
    """

    values: Callable[[Any, Any], Tensor]
    of_means: Callable[[Tensor], Tensor] = _only


class Accumulated:
    """A statistic over batches, in the form of a metric that sees one batch after the other."""

    def __init__(self, statistic: Statistic) -> None:
        self.statistic = statistic
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._totals, self._count = torch.zeros(()), 0

    def update(self, outputs: Any, targets: Any) -> None:
        """Takes the outputs and targets of a batch."""
        values = self.statistic.values(outputs, targets).double()
        self._totals = self._totals + values.view(len(values), -1).sum(0)
        self._count += len(values)

    def compute(self) -> float:
        """Returns the metric over all batches."""
        return self.statistic.of_means(self._totals / self._count).item()


def statistic_of(metric: autoprune.Metric) -> Statistic:
    """Returns how a task's metric follows from its samples; a function's is the mean of its values."""
    return metric.measure.statistic if isinstance(metric.measure, Accumulated) else Statistic(metric.measure)


@dataclass(frozen=True)
class Estimate:
    """A metric on a number of samples.

    Attributes:
        value: the metric.
        influence: `[n]`, how far each sample moves it from its value, times n; their mean is 0.
    """

    value: float
    influence: Tensor

    @property
    def error(self) -> float:
        """The standard error."""
        return float(self.influence.std()) / math.sqrt(len(self.influence))

    def minus(self, other: Estimate) -> Estimate:
        """Returns the difference to another network's metric on the same samples."""
        return Estimate(self.value - other.value, self.influence - other.influence)


def estimate(statistic: Statistic, values: Tensor) -> Estimate:
    """Returns the metric of `[n, k]` values, with what each sample contributes to it."""
    means = values.mean(0).requires_grad_()
    metric = statistic.of_means(means)
    (gradient,) = torch.autograd.grad(metric, means)
    return Estimate(metric.item(), (values - means.detach()) @ gradient)


@torch.no_grad()
def sample_values(
    network: nn.Module, task: autoprune.SimpleTask, split: Any, batch_size: int = 64
) -> dict[str, Tensor]:
    """Returns for each metric of a task the `[n, k]` values of all samples of a split, in the split's order.

    Args:
        network: in evaluation mode afterwards.
        task: whose samples.
        split: `validation` or `test`.
        batch_size: samples in one forward pass.
    """
    network.eval()
    statistics = {metric.name: statistic_of(metric) for metric in task.metrics}
    found: dict[str, list[Tensor]] = {name: [] for name in statistics}
    for inputs, targets in task.batches(split, batch_size):
        outputs = autoprune.ModelInputs.of(inputs).call(network)
        for name, statistic in statistics.items():
            values = statistic.values(getattr(outputs, "logits", outputs), targets)  # as metrics get them
            found[name].append(values.double().view(len(values), -1))
    return {name: torch.cat(values) for name, values in found.items()}
