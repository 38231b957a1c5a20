"""Collects how much each structure of a group contributes to the outputs of the layers that use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph.groups import ChannelGraph
from autoprune.graph.inputs import ModelInputs, call_network
from autoprune.graph.layers import Layer
from autoprune.pruning.statistics.layer_inputs import (
    inputs_at,
    is_observed,
    observable,
    observe_layers,
    sample_positions,
    weighted_layer,
)

# Output positions of each sample that count, as He et al. 2017, arXiv:1707.06168, do in their experiments.
POSITIONS = 10


@dataclass(frozen=True)
class ConsumerStatistics:
    """What a layer that uses a group computes from its structures.

    Attributes:
        weight: `[structures, …]` the layer's weights that meet the structure's channels, in double precision.
        gram: `[structures, structures]` inner products, over output channels, samples and positions, of what each
            structure contributes to the layer's output.
    """

    weight: Tensor
    gram: Tensor


@dataclass(frozen=True)
class _ConsumerInput:
    """The entries of a consumer's input axis that hold a group's structures.

    Attributes:
        rows: `[groups, structures, times]` entries of the weight's inner axis, by the consumer's own groups.
    """

    group: str
    rows: Tensor

    @classmethod
    def of(cls, group: str, layer: Layer, rows: Tensor) -> _ConsumerInput:
        """Splits the `[structures, times]` positions along a layer's input axis by the layer's groups."""
        assert layer.incoming is not None
        per_group = len(layer.incoming) // layer.groups
        split = rows.view(len(rows), layer.groups, -1).movedim(1, 0)  # tied across groups: as many in each
        local = split - per_group * torch.arange(layer.groups).view(-1, 1, 1)
        assert bool(((local >= 0) & (local < per_group)).all())
        return cls(group, local)

    def weights(self, weight: Tensor) -> Tensor:
        """Selects from `[out, in of a group, *kernel]`: `[groups, out of a group, structures, times · kernel]`."""
        split = weight.detach().double().reshape(len(self.rows), len(weight) // len(self.rows), weight.size(1), -1)
        return torch.stack([part[:, rows].flatten(2) for part, rows in zip(split, self.rows, strict=True)])

    def inputs(self, windows: Tensor) -> Tensor:
        """Selects from `[rows, in, kernel]`: `[groups, rows, structures, times · kernel]`."""
        split = windows.reshape(len(windows), len(self.rows), -1, windows.size(2)).movedim(1, 0)
        return torch.stack([part[:, rows].flatten(2) for part, rows in zip(split, self.rows, strict=True)])


class ConsumerCollector:
    """Sums, over batches, of Gram matrices of the structures' contributions to layers that use them.

    These are the layers of `is_observed`; transposed convolutions and layers that pass channels on are left out.
    """

    def __init__(self, network: nn.Module, graph: ChannelGraph) -> None:
        self._network = network if "forward" in network.__dict__ else observable(network)
        self._batches = 0
        self._uses: dict[str, list[_ConsumerInput]] = {}
        self._grams: dict[tuple[str, str], Tensor] = {}
        self._layers = layers = {layer.name: layer for layer in graph.layers}
        for group in graph.groups:
            for member in group.members:
                layer = layers[member.layer]
                if member.side == "in" and is_observed(layer):
                    self._uses.setdefault(layer.name, []).append(_ConsumerInput.of(group.name, layer, member.rows))

    def update(self, inputs: Any, targets: Tensor) -> None:
        """Runs one batch through the network."""
        layers = [self._layers[name] for name in self._uses]
        with observe_layers(self._network, layers, len(ModelInputs.of(inputs)), self._add):
            call_network(self._network, inputs)
        self._batches += 1

    def _add(self, name: str, call: int, inputs: Tensor, output: Tensor) -> None:
        module = weighted_layer(self._network, self._layers[name])
        chosen = sample_positions(module, output, POSITIONS, name, self._batches, call)
        windows = inputs_at(module, inputs, chosen).double()
        for use in self._uses[name]:
            pairs = zip(use.inputs(windows), use.weights(module.weight), strict=True)
            gram = torch.stack([_contributions_gram(*pair) for pair in pairs]).sum(0)
            self._grams[use.group, name] = self._grams.get((use.group, name), 0) + gram

    def compute(self) -> dict[str, dict[str, ConsumerStatistics]]:
        """Returns the statistics by group and by layer that uses it; groups without such a layer are absent."""
        found: dict[str, dict[str, ConsumerStatistics]] = {}
        for name, uses in self._uses.items():
            weight = weighted_layer(self._network, self._layers[name]).weight
            for use in uses:
                if (use.group, name) in self._grams:
                    rows = use.weights(weight).movedim(2, 0).flatten(1)
                    found.setdefault(use.group, {})[name] = ConsumerStatistics(rows, self._grams[use.group, name])
        return found


def _contributions_gram(inputs: Tensor, weights: Tensor) -> Tensor:
    """Computes the `[structures, structures]` inner products of contributions `inputs[:, i] @ weights[:, i].T`.

    The contributions themselves (`[rows, out]` for every structure) are not formed: the product of structures i and l
    is the sum over a and b of `(X_ia · X_lb)(W_ia · W_lb)`, where a and b count the inputs of a structure.

    Args:
        inputs: `[rows, structures, inputs of a structure]`, X.
        weights: `[out, structures, inputs of a structure]`, W.
    """
    gram = inputs.new_zeros(inputs.size(1), inputs.size(1))
    for one in range(inputs.size(2)):
        alike = inputs[:, :, one].T @ inputs.flatten(1)
        gram += (alike * (weights[:, :, one].T @ weights.flatten(1))).view(-1, *weights.shape[1:]).sum(2)
    return gram
