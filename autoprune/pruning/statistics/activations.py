"""Collects how active the output channels of layers are behind their activation functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.channel_locations import ChannelLocation, find_activation
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import Layer
from autoprune.graph.recording.replay import Replay
from autoprune.pruning.criteria.base import Activations


class ActivationCollector:
    """Sums, over batches, of the activations of some layers' output channels.

    Layers whose channels no activation holds all together are left out.
    """

    def __init__(self, graph: ChannelGraph, layers: Sequence[Layer], replay: Replay) -> None:
        self._replay = replay
        locations = {layer.name: find_activation(graph, layer) for layer in layers}
        self._locations = {name: found for name, found in locations.items() if found is not None}
        # By location, as several layers may meet at one.
        self._totals = {(found.node, found.dim): _Totals(found) for found in self._locations.values()}

    def update(self, inputs: Any, targets: Tensor) -> None:
        """Runs one batch through the network."""
        self._replay.observer = self._add
        self._replay.run(*ModelInputs.of(inputs).tensors())

    def _add(self, node: fx.Node, value: Any) -> None:
        for totals in self._totals.values():
            if totals.location.node is node:
                totals.add(value)

    def compute(self) -> dict[str, Activations]:
        """Returns by layer the means over all samples and positions, each `[out]`."""
        means = {}
        for name, location in self._locations.items():
            totals, average = self._totals[location.node, location.dim], location.channel_map.mean_per_channel
            means[name] = Activations(average(totals.nonzero / totals.count), average(totals.magnitude / totals.count))
        return means


@dataclass
class _Totals:
    """Sums of `[size]` over everything seen at one location, and of how many values each."""

    location: ChannelLocation
    nonzero: Tensor = field(default_factory=lambda: torch.zeros(()))
    magnitude: Tensor = field(default_factory=lambda: torch.zeros(()))
    count: int = 0

    def add(self, activation: Tensor) -> None:
        rows = self.location.rows(activation)
        self.nonzero = self.nonzero + (rows != 0).sum(1, dtype=torch.float64)
        self.magnitude = self.magnitude + rows.abs().sum(1, dtype=torch.float64)
        self.count += rows.size(1)
