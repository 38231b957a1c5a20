"""Structures: the groups that a pattern finds in a network, and how an allocation of them is pruned and costed."""

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
        """The groups in forward order."""

    @property
    def scored_layers(self) -> Sequence[Layer]:
        """The layers by whose weights the groups can be scored."""

    def layer_scores(self, group: str, criterion: Criterion, statistics_of: StatisticsFn) -> list[Tensor]:
        """Scores a group's structures by each of its layers that the criterion can score.

        Args:
            group: its name.
            criterion: scores one layer.
            statistics_of: returns what the criterion needs to know of a layer.

        Returns:
            `[width]` scores, or `[choices, width]` where there are several choices, by layer.
        """

    def masks(self, network: nn.Module, importance: Importance, allocation: Mapping[str, int]) -> Masks:
        """Builds the masks of an allocation, exactly counted.

        Args:
            network: of the architecture that was scored.
            importance: scores of the structures.
            allocation: kept widths.
        """

    def kept_channels(self, importance: Importance, allocation: Mapping[str, int]) -> Kept:
        """Returns the channels that stay when the network is thinned; empty where only weights or branches go."""

    def removed_branches(self, allocation: Mapping[str, int]) -> tuple[str, ...]:
        """Returns the names of the residual branches that go whole."""

    def prune(
        self,
        network: nn.Module,
        importance: Importance,
        allocation: Mapping[str, int],
        check_on: Tensor | None = None,
    ) -> nn.Module:
        """Builds a pruned copy of the network: thinned, without branches, or masked where only weights go.

        Args:
            network: of the architecture that was scored.
            importance: scores of the structures.
            allocation: kept widths.
            check_on: `[batch, …]` inputs on which a smaller network is compared with the masked one.

        Raises:
            UserError: the allocation does not fit the groups, or the network cannot be copied.
            AutopruneError: the copy does not compute or lack what it should.
        """

    def cost_table(self, network: nn.Module, inputs: Tensor) -> CostTable:
        """Builds the costs of every allocation; *effective* ones where weights are set to zero.

        Args:
            network: of this architecture.
            inputs: `[batch, …]`.
        """

    def measure(
        self, pruned: nn.Module, inputs: Tensor, importance: Importance, allocation: Mapping[str, int]
    ) -> dict[str, int]:
        """Counts on a pruned network what `cost_table` predicts.

        Args:
            pruned: from `prune` with the same scores and widths, perhaps trained further.
            inputs: `[batch, …]`.
            importance: scores of the structures.
            allocation: kept widths.
        """


def find_structures(network: nn.Module, graph: ChannelGraph, pattern: Pattern) -> Structures:
    """Finds the groups of a network under a pattern.

    Args:
        graph: what `find_groups` found in the network.
        pattern: the shape of what is removed.
    """
    if pattern.coupled:
        return ChannelStructures(graph)
    if pattern.whole:
        return find_branch_structures(network, graph)
    return find_weight_structures(network, graph, pattern)
