"""Residual branches as structures, each kept or removed whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from autoprune.core.costs import CostTable
from autoprune.core.space import Group
from autoprune.graph.branches import Branch, build_branch_costs, find_branches
from autoprune.graph.costs import measure_costs
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Criterion, StatisticsFn
from autoprune.pruning.surgery.branch_removal import branch_masks, remove_branches
from autoprune.pruning.surgery.masks import Importance, Masks


@dataclass(frozen=True)
class BranchStructures:
    """Residual branches, each a group of width 1; see `Structures`."""

    graph: ChannelGraph
    branches: tuple[Branch, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        types = {layer.name: layer.type for layer in self.graph.layers}
        return tuple(
            Group(branch.name, 1, branch.weights, tuple(types.get(name, "") for name in branch.weights), least=0)
            for branch in self.branches
        )

    @property
    def scored_layers(self) -> Sequence[Layer]:
        inside = {name for branch in self.branches for name in branch.weights}
        return [layer for layer in self.graph.layers if layer.name in inside]

    def layer_scores(self, group: str, criterion: Criterion, statistics_of: StatisticsFn) -> list[Tensor]:
        """Scores a branch, `[1]`, by each of its layers."""
        inside = next(branch.weights for branch in self.branches if branch.name == group)
        scores = [criterion.score(statistics_of(layer)) for layer in self.scored_layers if layer.name in inside]
        return [score.double() for score in scores if score is not None]

    def masks(self, network: nn.Module, importance: Importance, allocation: Mapping[str, int]) -> Masks:
        gone = self.removed_branches(allocation)
        return branch_masks(network, [branch for branch in self.branches if branch.name in gone])

    def kept_channels(self, importance: Importance, allocation: Mapping[str, int]) -> Kept:
        return {}

    def removed_branches(self, allocation: Mapping[str, int]) -> tuple[str, ...]:
        return tuple(branch.name for branch in self.branches if allocation.get(branch.name, 1) == 0)

    def prune(
        self,
        network: nn.Module,
        importance: Importance,
        allocation: Mapping[str, int],
        check_on: Tensor | None = None,
    ) -> nn.Module:
        return remove_branches(network, self.graph, self.removed_branches(allocation), check_on)

    def cost_table(self, network: nn.Module, inputs: Tensor) -> CostTable:
        return build_branch_costs(network, self.graph, self.branches)

    def measure(
        self, pruned: nn.Module, inputs: Tensor, importance: Importance, allocation: Mapping[str, int]
    ) -> dict[str, int]:
        return measure_costs(pruned, inputs)


def find_branch_structures(network: nn.Module, graph: ChannelGraph) -> BranchStructures:
    """Finds the branches that can go; those of which no layer is followed cannot be scored, and stay."""
    followed = {layer.name for layer in graph.layers}
    branches = find_branches(network, graph)
    return BranchStructures(graph, tuple(branch for branch in branches if followed & set(branch.weights)))
