"""Watches the channels of layers behind their activation functions, batch by batch, and keeps sums alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoprune.graph.capture import mode
from autoprune.graph.channel_locations import ChannelLocation, find_activation
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Activations


class ActivationCollector:
    """Sums over what the output channels of some layers carry; layers that are met nowhere further on are left out."""

    def __init__(self, network: nn.Module, graph: ChannelGraph, layers: Sequence[Layer]) -> None:
        self._network, self._traced = network, graph.flow.traced
        found = {layer.name: find_activation(graph, layer) for layer in layers}
        self._locations = {name: location for name, location in found.items() if location is not None}
        self._sums: dict[tuple[fx.Node, int | None], _Sums] = {}

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Runs one batch through the network in evaluation mode."""
        locations: dict[fx.Node, dict[int | None, ChannelLocation]] = {}
        for location in self._locations.values():
            locations.setdefault(location.node, {})[location.dim] = location
        with mode(self._network, training=False), mode(self._traced, training=False), torch.no_grad():
            _Run(self._network, self._traced, self, locations).run(inputs)

    def take(self, location: ChannelLocation, value: Tensor) -> None:
        """Adds one activation; those of several layers at one location count once."""
        self._sums.setdefault((location.node, location.dim), _Sums()).add(location.rows(value))

    def compute(self) -> dict[str, Activations]:
        """Layer name to what was seen of its channels, each `[out]`."""
        seen = {}
        for name, location in self._locations.items():
            sums = self._sums[location.node, location.dim]
            seen[name] = Activations(
                location.channel_map.mean_per_channel(sums.nonzero / sums.count),
                location.channel_map.mean_per_channel(sums.magnitude / sums.count),
            )
        return seen


class _Sums:
    """Over everything seen at one location: `[size]` sums, and of how many values each."""

    nonzero: Tensor
    magnitude: Tensor

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: Tensor) -> None:
        nonzero = (rows != 0).sum(1, dtype=torch.float64)
        magnitude = rows.abs().sum(1, dtype=torch.float64)
        self.nonzero = self.nonzero + nonzero if self.count else nonzero
        self.magnitude = self.magnitude + magnitude if self.count else magnitude
        self.count += rows.size(1)


class _Run(fx.Interpreter):
    """Runs the traced operations on the network's own modules; values are dropped as soon as they are used."""

    def __init__(
        self,
        network: nn.Module,
        traced: fx.GraphModule,
        watch: ActivationCollector,
        locations: Mapping[fx.Node, Mapping[int | None, ChannelLocation]],
    ) -> None:
        super().__init__(network, graph=traced.graph)
        self._traced, self._watch, self._locations = traced, watch, locations

    def fetch_attr(self, target: str) -> Any:
        try:
            return super().fetch_attr(target)
        except RuntimeError:  # what tracing added: constants, and the module that answers for the mode
            return getattr(self._traced, target)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        for location in self._locations.get(n, {}).values():
            self._watch.take(location, value)
        return value
