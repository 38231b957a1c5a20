"""The one place where the matrix meets autoprune: its groups, what they cost, and networks without some channels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from autoprune.graph.costs import build_cost_table
from autoprune.graph.groups import find_groups
from autoprune.pruning.surgery.thinning import thin

Kept = Mapping[str, Sequence[int]]


class Analysis:
    """A network as autoprune sees it.

    Attributes:
        widths: how many structures each group has.
        seconds: of processor time that the analysis took.
    """

    def __init__(self, network: nn.Module, inputs: Any) -> None:
        began = time.process_time()
        self._network = network
        self._graph = find_groups(network, inputs)
        self._costs = build_cost_table(network, self._graph, inputs)
        self.seconds = time.process_time() - began
        self.widths: dict[str, int] = {each.group.name: each.group.width for each in self._graph.groups}

    def channels_without(self, kept: Kept) -> list[tuple[str, int, Tensor]]:
        """Returns the channel list of what goes: names of tensors, axes, and entries along them, `[gone]`."""
        found = []
        for group, stays in kept.items():
            gone = sorted({*range(self.widths[group])} - {*stays})
            rows = self._graph.tensor_rows(group)
            found += [(tensor, dim, entries[gone].flatten()) for tensor, dim, entries in rows]
        return found

    def thin(self, kept: Kept) -> nn.Module:
        """Returns the network with only some structures of each group."""
        return thin(self._network, self._graph, kept)

    def predicted(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Returns FLOPs of one sample, parameters and bytes of an allocation, without building it."""
        return dict(self._costs.costs(dict(widths)))
