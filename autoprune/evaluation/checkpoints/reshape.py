"""The shape of a pruned network: residual branches and channels removed from a dense one, one removal after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autoprune.errors import CheckpointError, UserError
from autoprune.graph.branches import choose_branches, find_branches
from autoprune.graph.groups import ChannelGraph, Kept, channels_of, find_groups
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.surgery.branch_removal import remove_branches, without_branches
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.surgery.thinning import thin


@dataclass(frozen=True)
class PrunedShape:
    """The branches and channels that a dense network has lost.

    Attributes:
        removed: names of residual branches that went whole.
        kept: layer to the output channels of the dense layer that stay; layers that lost none are absent. It may name
            layers in `removed`.
    """

    removed: tuple[str, ...] = ()
    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReshapedNetwork:
    """A network that has lost a part of a dense one, with the masks of its weights.

    Attributes:
        inputs: two samples.
        masks: of its weights.
    """

    network: nn.Module
    inputs: ModelInputs
    shape: PrunedShape
    masks: Masks

    def without(self, branches: Sequence[str]) -> ReshapedNetwork:
        """Returns the network without residual branches, by the names that `find_branches` gives them in it."""
        graph = find_groups(self.network, self.inputs)
        gone = choose_branches(find_branches(self.network, graph), branches)
        layers = {layer for branch in gone for layer in branch.layers}
        kept = {name: stays for name, stays in self.shape.kept.items() if name not in layers}
        shape = PrunedShape((*self.shape.removed, *branches), kept)
        return self._become(lambda network, check_on: remove_branches(network, graph, branches, check_on), shape)

    def thinned(self, kept: Kept) -> ReshapedNetwork:
        """Returns the network with only some channels of its groups; `kept` numbers those that it has by now."""
        graph = find_groups(self.network, self.inputs)
        by_layer = dict(self.shape.kept)
        for layer, stays in kept_by_layer(graph, kept).items():
            by_layer[layer] = [by_layer[layer][i] for i in stays] if layer in by_layer else stays
        shape = replace(self.shape, kept=by_layer)
        return self._become(lambda network, check_on: thin(network, graph, kept, check_on), shape)

    def _become(
        self, change: Callable[[nn.Module, ModelInputs | None], nn.Module], shape: PrunedShape
    ) -> ReshapedNetwork:
        masks = _carried(self.network, self.masks, lambda twin: change(twin, None))
        return ReshapedNetwork(change(self.network, self.inputs), self.inputs, shape, masks)


def reshape(dense: nn.Module, source: ChannelGraph | Any, shape: PrunedShape) -> nn.Module:
    """Returns a copy of a dense network in a shape, with its own weights where they stay.

    Channels of layers in a branch that is gone are told only where the dense network's were chosen, before it went; a
    stage that lost all of its branches may have no other layer that makes them. Else the branches go first.

    Args:
        dense: not changed.
        source: its channels, or samples as it takes them; where nothing is missing, it is not looked at.
        shape: what the copy is without.

    Raises:
        CheckpointError: the shape is not one of this network.
    """
    if not shape.removed and not shape.kept:
        return copy_network(dense)
    graph = channels_of(dense, source)
    gone = [branch for branch in find_branches(dense, graph) if branch.name in shape.removed] if shape.removed else []
    if set(shape.kept) & {layer for branch in gone for layer in branch.layers}:
        kept = kept_by_group(graph, shape.kept)
        return without_branches(thin(dense, graph, kept), graph, gone, kept)
    network, graph = _without(dense, graph, shape.removed)
    return thin(network, graph, kept_by_group(graph, shape.kept))


def _without(dense: nn.Module, graph: ChannelGraph, removed: Sequence[str]) -> tuple[nn.Module, ChannelGraph]:
    """Returns a dense network without some branches, and its graph.

    They go in as many rounds as it takes: a branch around another one can go only after that.
    """
    network, waiting = dense, set(removed)
    while waiting:
        ready = waiting & {branch.name for branch in find_branches(network, graph)}
        try:
            network = remove_branches(network, graph, ready or waiting)
        except UserError as fault:
            raise CheckpointError(f"the checkpoint does not fit {type(dense).__name__}: {fault}") from fault
        graph = find_groups(network, graph.flow.inputs)
        waiting -= ready
    return network, graph


def _carried(network: nn.Module, masks: Masks, transform: Callable[[nn.Module], nn.Module]) -> Masks:
    """Returns the masks of a network as masks of what a thinning or removal makes of it."""
    twin = copy_network(network)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.copy_(masks[name]) if name in masks else parameter.fill_(1)
    left = {name: parameter.detach() != 0 for name, parameter in transform(twin).named_parameters()}
    return {name: mask for name, mask in left.items() if not bool(mask.all())}


def kept_by_layer(graph: ChannelGraph, kept: Kept) -> dict[str, list[int]]:
    """Returns the output channels that stay, ascending, of every layer that loses some."""
    keep = graph.keep_mask(kept)
    stays = {layer.name: keep[layer.outgoing] for layer in graph.layers if layer.produces}
    return {name: mask.nonzero().flatten().tolist() for name, mask in stays.items() if not bool(mask.all())}


def kept_by_group(graph: ChannelGraph, by_layer: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Returns the structures that stay of each group: those whose channel in the group's first layer stays.

    Raises:
        CheckpointError: a layer is not among the network's, or all of a group would go.
    """
    unknown = set(by_layer) - {layer.name for layer in graph.layers}
    if unknown:
        raise CheckpointError(
            f"the checkpoint names layers that the network does not have: {', '.join(sorted(unknown))}"
        )
    kept = {}
    for group in graph.groups:
        first = next(member for member in group.members if member.side == "out")
        if first.layer not in by_layer:
            continue
        stays = set(by_layer[first.layer])
        kept[group.name] = tuple(i for i, row in enumerate(first.rows.tolist()) if row[0] in stays)
        if not kept[group.name]:
            raise CheckpointError(f"the checkpoint keeps nothing of group {group.name!r}")
    return kept
