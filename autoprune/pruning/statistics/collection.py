"""What criteria learn from data: streamed batch by batch, the network untouched, no activation kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from autoprune.errors import DataError
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Activations, Gradients, Need
from autoprune.pruning.statistics.activations import ActivationCollector
from autoprune.pruning.statistics.consumers import ConsumerCollector, ConsumerStatistics
from autoprune.pruning.statistics.gradients import GateCollector, GradientCollector, Loss


@dataclass(frozen=True)
class CalibrationData:
    """Where statistics come from.

    Attributes:
        batches: `(inputs, targets)` on the network's device; gone through once, and only if a criterion needs data.
        loss: `(outputs, targets)` to the mean loss of a batch.
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    loss: Loss


@dataclass(frozen=True)
class NetworkStatistics:
    """By layer, what was gathered; empty where it was not asked for.

    Attributes:
        gradients: of the weight as torch stores it.
        gates: `[out]`, see `LayerStatistics.gate`.
        consumers: by group, then by the layer that uses it.
    """

    activations: Mapping[str, Activations] = field(default_factory=dict)
    gradients: Mapping[str, Gradients] = field(default_factory=dict)
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    consumers: Mapping[str, Mapping[str, ConsumerStatistics]] = field(default_factory=dict)


class StatisticsCollector(Protocol):
    def update(self, inputs: Tensor, targets: Tensor) -> None: ...


def collect_statistics(
    network: nn.Module, graph: ChannelGraph, layers: Sequence[Layer], needs: Set[Need], source: CalibrationData
) -> NetworkStatistics:
    """Statistics of some layers over one pass through the source's batches, in evaluation mode.

    Weights, buffers, gradients, modes and `requires_grad` of the network stay as they are.

    Raises:
        DataError: there is no batch.
        UserError: gradients are needed and the loss cannot be differentiated.
    """
    activations = ActivationCollector(network, graph, layers if "activations" in needs else ())
    gradients = GradientCollector(network, layers if "gradients" in needs else (), source.loss)
    gates = GateCollector(network, graph, layers if "gates" in needs else (), source.loss)
    consumers = ConsumerCollector(network, graph, graph.groups if "consumers" in needs else ())
    watches: Mapping[Need, StatisticsCollector] = {
        "activations": activations,
        "gradients": gradients,
        "gates": gates,
        "consumers": consumers,
    }
    seen = 0
    for inputs, targets in source.batches:
        seen += len(inputs)
        for need in sorted(needs & watches.keys()):
            watches[need].update(inputs, targets)
    if not seen:
        raise DataError("there are no samples to gather statistics from; which samples score the structures?")
    return NetworkStatistics(activations.compute(), gradients.compute(), gates.compute(), consumers.compute())
