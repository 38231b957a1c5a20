"""The shape of a pruned network: residual branches and channels removed from a dense one, one removal after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from autoprune.errors import CheckpointError, UserError
from autoprune.graph.branches import find_branches
from autoprune.graph.groups import ChannelGraph, Kept, channels_of, find_groups, inputs_of
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.surgery.branch_removal import remove_branches, without_branches
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.surgery.provenance import (
    PrunedShape,
    carry_masks,
    kept_by_layer,
    note_provenance,
    provenance_of,
)
from autoprune.pruning.surgery.thinning import thin


@dataclass(frozen=True)
class ReshapedNetwork:
    """A network that has lost a part of a dense one, with the masks of its weights.

    Attributes:
        inputs: two samples.
        shapes: what it lost, one loss after the other.
        masks: of its weights.
    """

    network: nn.Module
    inputs: ModelInputs
    shapes: tuple[PrunedShape, ...]
    masks: Masks

    def without(self, branches: Sequence[str]) -> ReshapedNetwork:
        """Returns the network without residual branches, by the names that `find_branches` gives them in it."""
        graph = find_groups(self.network, self.inputs)
        shape = PrunedShape(tuple(branches))
        return self._become(lambda network, check_on: remove_branches(network, graph, branches, check_on), shape)

    def thinned(self, kept: Kept) -> ReshapedNetwork:
        """Returns the network with only some channels of its groups; `kept` numbers those that it has by now."""
        graph = find_groups(self.network, self.inputs)
        shape = PrunedShape((), kept_by_layer(graph, kept))
        return self._become(lambda network, check_on: thin(network, graph, kept, check_on), shape)

    def _become(
        self, change: Callable[[nn.Module, ModelInputs | None], nn.Module], shape: PrunedShape
    ) -> ReshapedNetwork:
        masks = carry_masks(self.network, self.masks, lambda twin: change(twin, None))
        smaller = change(self.network, self.inputs)
        note_provenance(smaller, provenance_of(self.network).then(shape, {}))
        return ReshapedNetwork(smaller, self.inputs, (*self.shapes, shape), masks)


def reshape(dense: nn.Module, source: ChannelGraph | Any, shapes: Sequence[PrunedShape]) -> nn.Module:
    """Returns a copy of a network after some losses, with its own weights where they stay; it has no masks.

    Every loss is repeated on what the one before it left, exactly as it came about: whatever the network was when its
    channels were chosen, their numbers hold for that.

    Args:
        dense: not changed.
        source: its channels, or samples as it takes them; where nothing is missing, it is not looked at.
        shapes: what the copy is without, one loss after the other.

    Raises:
        CheckpointError: a shape is not one of this network.
    """
    network, at = copy_network(dense), source
    for shape in filter(None, shapes):
        network, at = _reshaped(network, channels_of(network, at), shape), inputs_of(source)
    provenance = provenance_of(dense)
    note_provenance(network, replace(provenance, shapes=(*provenance.shapes, *filter(None, shapes)), masks={}))
    return network


def _reshaped(dense: nn.Module, graph: ChannelGraph, shape: PrunedShape) -> nn.Module:
    """Returns a copy of a network after one loss.

    Channels of layers in a branch that is gone are told only where the dense network's were chosen, before it went; a
    stage that lost all of its branches may have no other layer that makes them. Else the branches go first.
    """
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
            raise CheckpointError(str(fault)) from fault
        graph = find_groups(network, graph.flow.inputs)
        waiting -= ready
    return network, graph


def kept_by_group(graph: ChannelGraph, by_layer: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Returns the structures that stay of each group: those whose channel in the group's first layer stays.

    Raises:
        CheckpointError: a layer is not among the network's, or all of a group would go.
    """
    unknown = set(by_layer) - {layer.name for layer in graph.layers}
    if unknown:
        raise CheckpointError(f"it names layers that the network does not have: {', '.join(sorted(unknown))}")
    kept = {}
    for group in graph.groups:
        first = next(member for member in group.members if member.side == "out")
        if first.layer not in by_layer:
            continue
        stays = set(by_layer[first.layer])
        kept[group.name] = tuple(i for i, row in enumerate(first.rows.tolist()) if row[0] in stays)
        if not kept[group.name]:
            raise CheckpointError(f"it keeps nothing of group {group.name!r}")
    return kept
