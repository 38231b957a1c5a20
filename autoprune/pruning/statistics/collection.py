"""Collects what criteria need to know from data, batch by batch; the network is untouched, no activation is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autoprune.errors import DataError
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import Layer
from autoprune.graph.recording.replay import Replay
from autoprune.graph.recording.running import mode
from autoprune.pruning.criteria.base import Activations, Gradients, Need
from autoprune.pruning.statistics.activations import ActivationCollector
from autoprune.pruning.statistics.consumers import ConsumerCollector, ConsumerStatistics
from autoprune.pruning.statistics.gradients import GateCollector, GradientCollector, Loss


@dataclass(frozen=True)
class CalibrationData:
    """Samples and loss from which statistics are collected.

    Attributes:
        batches: `(inputs, targets)` on the network's device; read once, and only if a criterion needs data.
        loss: outputs and targets to the mean loss of a batch.
    """

    batches: Iterable[tuple[Any, Tensor]]
    loss: Loss


@dataclass(frozen=True)
class NetworkStatistics:
    """Statistics by layer; empty where they were not asked for.

    Attributes:
        gradients: of the weight as torch stores it.
        gates: `[out]`, see `LayerStatistics.gate`.
        consumers: by group, then by the layer that uses it.
    """

    activations: Mapping[str, Activations] = field(default_factory=dict)
    gradients: Mapping[str, Gradients] = field(default_factory=dict)
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    consumers: Mapping[str, Mapping[str, ConsumerStatistics]] = field(default_factory=dict)


class _Collector(Protocol):
    """Sums over batches, which it is given with the network in evaluation mode."""

    def update(self, inputs: Any, targets: Tensor) -> None: ...

    def compute(self) -> Any: ...


def collect_statistics(
    network: nn.Module,
    graph: ChannelGraph | None,
    layers: Sequence[Layer],
    needs: Set[Need],
    calibration: CalibrationData,
    replay: Replay | None = None,
) -> NetworkStatistics:
    """Collects statistics of some layers in one pass through the batches, in evaluation mode.

    Weights, buffers, gradients, modes and `requires_grad` of the network stay as they are.

    Args:
        network: runs the batches.
        graph: what `find_groups` found in the network, or in one of the same architecture; None where only gradients
            of weights are wanted.
        layers: those whose statistics are wanted; consumers are those of all groups.
        needs: which statistics.
        calibration: samples and loss.
        replay: runs what was recorded of the network, operation by operation; None: on the network as it is.

    Raises:
        DataError: there is no batch.
        UserError: gradients are needed and the loss cannot be differentiated.
    """
    make: dict[Need, Callable[[], _Collector]] = {
        "gradients": lambda: GradientCollector(network, layers, calibration.loss)
    }
    if graph is not None:
        make["activations"] = lambda: ActivationCollector(graph, layers, replay or Replay(network, graph.flow.traced))
        make["gates"] = lambda: GateCollector(network, graph, layers, calibration.loss)
        make["consumers"] = lambda: ConsumerCollector(network, graph)
    collectors = {need: make[need]() for need in sorted(needs & make.keys())}
    seen = 0
    for inputs, targets in calibration.batches:
        seen += len(ModelInputs.of(inputs))
        with mode(network, training=False), torch.no_grad():
            for collector in collectors.values():
                collector.update(inputs, targets)
    if not seen:
        raise DataError("there are no samples to gather statistics from; which samples score the structures?")
    return NetworkStatistics(**{need: collector.compute() for need, collector in collectors.items()})
