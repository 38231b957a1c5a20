"""Output channels as structures, which coupled layers lose together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from autoprune.core.costs import CostTable
from autoprune.core.space import Group
from autoprune.graph.costs import build_cost_table, measure_costs
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Criterion, StatisticsFn
from autoprune.pruning.surgery.masks import Importance, Masks, build_masks, choose_kept
from autoprune.pruning.surgery.thinning import thin


@dataclass(frozen=True)
class ChannelStructures:
    """Output channels of coupled layers, to be thinned; see `Structures`."""

    graph: ChannelGraph

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(group.group for group in self.graph.groups)

    @property
    def scored_layers(self) -> Sequence[Layer]:
        producers = {member.layer for group in self.graph.groups for member in group.members if member.side == "out"}
        return [layer for layer in self.graph.layers if layer.name in producers]

    def layer_scores(self, group: str, criterion: Criterion, statistics_of: StatisticsFn) -> list[Tensor]:
        layers = {layer.name: layer for layer in self.graph.layers}
        found = []
        for member in self.graph[group].members:
            if member.side != "out":
                continue
            channels = criterion.score(statistics_of(layers[member.layer]))
            if channels is not None:
                # A structure that holds several channels of a layer (across a convolution's groups) scores their sum.
                found.append(channels.double()[member.rows.to(channels.device)].sum(1))
        return found

    def masks(self, network: nn.Module, importance: Importance, allocation: Mapping[str, int]) -> Masks:
        return build_masks(network, self.graph, choose_kept(importance, allocation))

    def kept_channels(self, importance: Importance, allocation: Mapping[str, int]) -> Kept:
        return choose_kept(importance, allocation)

    def removed_branches(self, allocation: Mapping[str, int]) -> tuple[str, ...]:
        return ()

    def prune(
        self,
        network: nn.Module,
        importance: Importance,
        allocation: Mapping[str, int],
        check_on: Tensor | None = None,
    ) -> nn.Module:
        return thin(network, self.graph, choose_kept(importance, allocation), check_on)

    def cost_table(self, network: nn.Module, inputs: Tensor) -> CostTable:
        return build_cost_table(network, self.graph, inputs)

    def measure(
        self, pruned: nn.Module, inputs: Tensor, importance: Importance, allocation: Mapping[str, int]
    ) -> dict[str, int]:
        return measure_costs(pruned, inputs)
