"""The one place where the matrix meets autoprune: its groups, what they cost, and networks without some channels."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph.costs import build_cost_table
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.graph.layers import channel_axes, named_tensors
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
            rows = _rows(self._graph, self._network, group)
            found += [(tensor, dim, entries[gone].flatten()) for tensor, dim, entries in rows]
        return found

    def thin(self, kept: Kept) -> nn.Module:
        """Returns the network with only some structures of each group."""
        return thin(self._network, self._graph, kept)

    def predicted(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Returns FLOPs of one sample, parameters and bytes of an allocation, without building it."""
        return dict(self._costs.costs(dict(widths)))


def _rows(graph: ChannelGraph, network: nn.Module, group: str) -> list[tuple[str, int, Tensor]]:
    """Returns a group's channel list: names of tensors, axes, and the entries of each structure, `[width, times]`."""
    if hasattr(graph, "tensor_rows"):
        return graph.tensor_rows(group)
    roots = graph[group].roots
    structure = torch.full((len(graph.roots),), -1)  # of every channel id that is a root
    structure[roots] = torch.arange(len(roots))
    found, tensors = {}, named_tensors(network)
    for layer in graph.layers:
        for axis in channel_axes(layer, tensors):
            owners = structure[graph.roots[axis.ids]]
            entries = owners.argsort(stable=True)[int((owners < 0).sum()) :]
            if len(entries):
                found[axis.tensor, axis.dim] = entries.view(len(roots), -1)
    return [(tensor, dim, entries) for (tensor, dim), entries in found.items()]
