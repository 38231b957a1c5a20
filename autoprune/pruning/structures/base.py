"""What a pattern finds in a network: its groups, and how an allocation of them is pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from autoprune.core.costs import CostTable
from autoprune.core.space import Group
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Criterion, StatisticsFn
from autoprune.pruning.patterns import Pattern
from autoprune.pruning.structures.branches import find_branch_structures
from autoprune.pruning.structures.channels import ChannelStructures
from autoprune.pruning.structures.weights import find_weight_structures
from autoprune.pruning.surgery.masks import Importance, Masks


class Structures(Protocol):
    """A network's groups under one pattern."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """In forward order."""

    @property
    def scored_layers(self) -> Sequence[Layer]:
        """The layers whose weights say something of the groups."""

    def layer_scores(self, group: str, criterion: Criterion, statistics_of: StatisticsFn) -> list[Tensor]:
        """Scores of a group's structures by each layer that the criterion can say something of."""

    def masks(self, network: nn.Module, importance: Importance, allocation: Mapping[str, int]) -> Masks:
        """What goes, exactly counted, out of the parameters of a network like the one that was scored."""

    def kept_channels(self, importance: Importance, allocation: Mapping[str, int]) -> Kept:
        """The channels that stay once the network is thinned; nothing where weights alone can go."""

    def removed_branches(self, allocation: Mapping[str, int]) -> tuple[str, ...]:
        """The residual branches that go whole, before anything is thinned."""

    def prune(
        self,
        network: nn.Module,
        importance: Importance,
        allocation: Mapping[str, int],
        check_on: Tensor | None = None,
    ) -> nn.Module:
        """A copy of the network as the allocation leaves it: thinned, or masked where weights alone can go."""

    def cost_table(self, network: nn.Module, inputs: Tensor) -> CostTable:
        """The costs of every allocation; *effective* ones where weights are set to zero."""

    def measure(
        self, pruned: nn.Module, inputs: Tensor, importance: Importance, allocation: Mapping[str, int]
    ) -> dict[str, int]:
        """What a network that was pruned so costs, counted on itself in the same sense."""


def find_structures(network: nn.Module, graph: ChannelGraph, pattern: Pattern) -> Structures:
    """The groups of a network under a pattern."""
    if pattern.coupled:
        return ChannelStructures(graph)
    if pattern.whole:
        return find_branch_structures(network, graph)
    return find_weight_structures(network, graph, pattern)
