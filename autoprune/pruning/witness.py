"""What the layers of a group say of its structures, by any criterion."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph, ChannelGroup
from autoprune.graph.layers import Layer
from autoprune.graph.places import find_norm
from autoprune.pruning.criteria.base import Criterion, Evidence, Gradients
from autoprune.pruning.gradients import parameter_name
from autoprune.pruning.patterns import Pattern
from autoprune.pruning.statistics import Source, Statistics, gather


@dataclass(frozen=True)
class Witness:
    """Gives evidence of a network's layers, one at a time."""

    network: nn.Module
    graph: ChannelGraph
    pattern: Pattern
    statistics: Statistics
    seed: int

    def parts(self, group: ChannelGroup, criterion: Criterion) -> list[Tensor]:
        """`[width]` scores by each layer that makes a group's channels, of those the criterion can say something of.

        A criterion that needs consumers scores by each layer that uses them instead.
        """
        if "consumers" in criterion.needs:
            return self._by_consumers(group, criterion)
        layers = {layer.name: layer for layer in self.graph.layers}
        parts = []
        for member in group.members:
            if member.side != "out":
                continue
            channels = criterion.score(self._evidence(layers[member.layer], criterion))
            if channels is not None:
                # A structure that holds several channels of a layer (across a convolution's groups) scores their sum.
                parts.append(channels.double()[member.rows.to(channels.device)].sum(1))
        return parts

    def _by_consumers(self, group: ChannelGroup, criterion: Criterion) -> list[Tensor]:
        seen = self.statistics.consumers.get(group.name, {})
        scores = (
            criterion.score(Evidence(layer, found.weight, contributions=found.gram, seed=self.seed))
            for layer, found in seen.items()
        )
        return [structures.double() for structures in scores if structures is not None]

    def _evidence(self, layer: Layer, criterion: Criterion) -> Evidence:
        weight: Tensor = self.network.get_submodule(layer.name).weight  # type: ignore[assignment]
        gradients = self.statistics.gradients.get(layer.name)
        return Evidence(
            layer.name,
            self.pattern.arrange(layer, weight.detach().double()),
            self._scale(layer) if "norm" in criterion.needs else None,
            self.statistics.activations.get(layer.name),
            gradients and self._arranged(layer, gradients),
            self.statistics.gates.get(layer.name),
            seed=self.seed,
        )

    def _arranged(self, layer: Layer, gradients: Gradients) -> Gradients:
        return Gradients(
            self.pattern.arrange(layer, gradients.magnitude.double()),
            self.pattern.arrange(layer, gradients.square.double()),
        )

    def _scale(self, layer: Layer) -> Tensor | None:
        parameters = dict(self.network.named_parameters())
        found = find_norm(self.graph, layer)
        if found is None or (name := parameter_name(found[0], "weight")) not in parameters:
            return None
        return found[1].means(parameters[name].detach().double().abs())


def call_witness(
    network: nn.Module,
    graph: ChannelGraph,
    criterion: Criterion,
    pattern: Pattern,
    source: Source | None,
    seed: int,
) -> Witness:
    """A witness who has seen what the criterion needs; the source is not touched where that is the weights alone.

    Raises:
        UserError: samples are needed and there is no source.
    """
    if not criterion.reads_data:
        return Witness(network, graph, pattern, Statistics(), seed)
    if source is None:
        raise UserError(
            f"criterion {criterion.name!r} needs training samples and a loss to score by; give a task, or choose one "
            "that goes by the weights, such as 'l1'"
        )
    made = {member.layer for group in graph.groups for member in group.members if member.side == "out"}
    layers = [layer for layer in graph.layers if layer.name in made]
    return Witness(network, graph, pattern, gather(network, graph, layers, criterion.needs, source), seed)
