"""Finds where a layer's output channels are met further on: at a batch norm, behind an activation function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.graph.channel_ids import axes_of, first_along
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import ACTIVATIONS, Layer, is_one_of
from autoprune.graph.rules.base import Activation, name_of
from autoprune.graph.rules.elementwise import ACTIVATION_FUNCTIONS


@dataclass(frozen=True)
class ChannelMap:
    """Which of a layer's output channels lies at each entry of an axis elsewhere.

    Channels that are tied to each other may be indistinguishable there; then they form one class.

    Attributes:
        entries: `[size]` the class of each entry, -1 where another layer's channel lies.
        classes: `[out]` the class of each of the layer's output channels.
    """

    entries: Tensor
    classes: Tensor

    def mean_per_channel(self, values: Tensor) -> Tensor:
        """Averages `[size]` values of the entries over each output channel: `[out]`."""
        entries, classes = self.entries.to(values.device), self.classes.to(values.device)
        own = entries >= 0
        sums = values.new_zeros(int(self.classes.max()) + 1)
        counts = sums.index_add(0, entries[own], torch.ones_like(values[own]))
        return (sums.index_add(0, entries[own], values[own]) / counts)[classes]


@dataclass(frozen=True)
class ChannelLocation:
    """An axis of an activation that holds all output channels of a layer.

    Attributes:
        node: the operation whose result it is.
        dim: the axis of the channels; None where the activation holds only one channel.
    """

    node: fx.Node
    dim: int | None
    channel_map: ChannelMap

    def rows(self, value: Tensor) -> Tensor:
        """Reshapes the activation to `[size, …]`, one row for each entry of the axis of the channels."""
        return value.reshape(1, -1) if self.dim is None else value.movedim(self.dim, 0).flatten(1)


def find_batch_norm(graph: ChannelGraph, layer: Layer) -> tuple[str, ChannelMap] | None:
    """Finds the first batch norm that all of a layer's output channels pass before another layer uses them.

    Returns:
        The norm's name and which of its channels are the layer's, or None where there is none, or it has no scales.
    """
    norms = {found.name: found for found in graph.layers if found.kind == "per_channel"}
    for node in _operations_behind(graph, layer)[0]:
        norm = norms.get(str(node.target)) if node.op == "call_module" else None
        if norm is None or not isinstance(module := graph.flow.traced.get_submodule(norm.name), _BatchNorm):
            continue
        channel_map = _map_channels(layer.outgoing, norm.outgoing, graph.roots)
        if channel_map is not None:
            return (norm.name, channel_map) if module.affine else None
    return None


def find_activation(graph: ChannelGraph, layer: Layer) -> ChannelLocation | None:
    """Finds a layer's output channels behind the activation function that follows, or None.

    Batch norms, additions, depthwise convolutions and the like may lie between. Where no such function follows, it is
    the input of the first layer that uses the channels.
    """
    passed, used = _operations_behind(graph, layer)
    functions = [node for node in passed if _is_activation(node, graph.flow.traced)]
    locations = (_locate(graph, layer, node) for node in (*functions, *used))
    return next((location for location in locations if location is not None), None)


def _operations_behind(graph: ChannelGraph, layer: Layer) -> tuple[list[fx.Node], list[fx.Node]]:
    """Lists the operations that pass a layer's channels on, and those whose results another layer uses, in order."""
    flow = graph.flow
    producers = {found.weight_name for found in flow.layers if found.produces}
    carrying: set[fx.Node] = set()
    passed: list[fx.Node] = []
    used: list[fx.Node] = []
    for node, weights in _weights_used(graph).items():
        sources = [source for source in node.all_input_nodes if source in carrying]
        made = weights & producers
        if layer.weight_name in made:
            carrying.add(node)
        if made - {layer.weight_name} or (made and sources):
            used += sources
        elif not made and sources and node in flow.activations and node not in flow.opaque:
            carrying.add(node)
            passed.append(node)
    return passed, used


def _weights_used(graph: ChannelGraph) -> dict[fx.Node, set[str]]:
    """Returns, for each operation on activations, which parameters it uses, also in parts, or laid in another way."""
    flow, recording = graph.flow, graph.flow.run.recording
    held: dict[str, set[str]] = {}
    for layer in flow.layers:
        held.setdefault(layer.module, set()).add(layer.weight_name)
    found: dict[fx.Node, set[str]] = {}
    parts: dict[fx.Node, set[str]] = {}
    for node in flow.traced.graph.nodes:
        names = {name for source in node.all_input_nodes for name in parts.get(source, ())}
        if node in recording.parameters:
            parts[node] = {recording.parameters[node]}
        elif node not in recording.reached:
            parts[node] = names
        else:
            found[node] = held.get(str(node.target), set()) if node.op == "call_module" else names
    return found


def _is_activation(node: fx.Node, traced: fx.GraphModule) -> bool:
    if node.op == "call_module":
        module: nn.Module = traced.get_submodule(str(node.target))
        return is_one_of(module, ACTIVATIONS)
    return node.op in ("call_function", "call_method") and name_of(node) in ACTIVATION_FUNCTIONS


def _locate(graph: ChannelGraph, layer: Layer, node: fx.Node) -> ChannelLocation | None:
    """Finds the axis of an operation's result that holds all output channels of a layer, or None."""
    found = graph.flow.activations.get(node)
    if not isinstance(found, Activation) or not found.shape.numel():
        return None
    channels = graph.flow.channels
    if not found.ids and 1 in found.shape and len(layer.outgoing) == 1:
        return ChannelLocation(
            node, None, ChannelMap(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        )
    for ids in found.ids:
        axes = axes_of(channels.rooted(ids))
        if len(axes) != 1:
            continue
        along = first_along(ids, set(range(ids.dim())) - set(axes)).flatten()
        channel_map = _map_channels(layer.outgoing, along, graph.roots)
        if channel_map is not None:
            return ChannelLocation(node, axes[0], channel_map)
    return None


def _map_channels(own: Tensor, there: Tensor, roots: Tensor) -> ChannelMap | None:
    """Maps a layer's channels to the entries of another axis, or None unless all of them lie there.

    Args:
        own: `[out]` ids of the layer's output channels.
        there: `[size]` ids of the other axis.
        roots: `[ids]` the root of every id.
    """
    # By the ids themselves; where a tied channel took another's place, by the classes of tied ids.
    for mine, theirs in ((own, there), (roots[own], roots[there])):
        found, classes = torch.unique(mine, return_inverse=True)
        nearest = torch.searchsorted(found, theirs.contiguous()).clamp_max(len(found) - 1)
        entries = torch.where(found[nearest] == theirs, nearest, -1)
        if len(torch.unique(entries[entries >= 0])) == len(found):
            return ChannelMap(entries, classes)
    return None
