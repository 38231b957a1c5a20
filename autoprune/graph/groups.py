"""Groups: sets of layers that must lose channels together, found by following channel ids."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from autoprune.core.allocation import Allocation
from autoprune.core.space import Group
from autoprune.errors import UserError
from autoprune.graph.channel_ids import Reason
from autoprune.graph.channels import ChannelFlow, FollowedRun, follow_channels
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import ChannelAxis, Layer, Side
from autoprune.graph.overview.frozen import FrozenChannels, group_reasons
from autoprune.graph.recording.recordings import CallSite
from autoprune.graph.recording.runs import record_runs, undecided
from autoprune.graph.rewrite import Simulation, simulate
from autoprune.graph.rules.base import activations_in

log = logging.getLogger(__name__)

Kept = Mapping[str, Sequence[int]]
"""Group name to the ascending indices of the structures that stay; groups that are not named stay whole."""


@dataclass(frozen=True)
class Member:
    """The positions of a group's structures along one axis of one layer.

    Attributes:
        rows: `[width, times]` positions; row i belongs to structure i. `times` is above 1 where a structure holds
            several channels of the axis (after flattening, across the groups of a convolution).
    """

    layer: str
    side: Side
    rows: Tensor


@dataclass(frozen=True)
class ChannelGroup:
    """A group with its positions in the network: `roots` are the `[width]` ids of its structures."""

    group: Group
    members: tuple[Member, ...]
    roots: Tensor

    @property
    def name(self) -> str:
        return self.group.name


@dataclass(frozen=True)
class ChannelGraph:
    """A network as its groups.

    Attributes:
        frozen: what cannot be pruned, in forward order.
        roots: `[ids]` the root of every channel id.
        remarks: what else to know of how the network was followed, a sentence each.
    """

    flow: ChannelFlow
    groups: tuple[ChannelGroup, ...]
    frozen: tuple[FrozenChannels, ...]
    roots: Tensor
    remarks: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ChannelGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise UserError(f"the network has no group {name!r}; it has {', '.join(g.name for g in self.groups)}")

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.flow.layers

    @property
    def axes(self) -> tuple[ChannelAxis, ...]:
        return self.flow.axes

    def reasons(self) -> list[str]:
        """Returns why what cannot be pruned stays, a line each: also remarks, and what could not be followed."""
        lines = [*map(str, group_reasons(self.frozen)), *self.remarks]
        for node in self.flow.run.recording.graph.nodes if not self.layers else ():
            if node in self.flow.opaque:
                lines.append(f"{node.name} is not followed ({self.flow.run.recording.sites[node].line})")
        return lines

    def tensor_rows(self, name: str) -> list[tuple[str, int, Tensor]]:
        """Returns where the structures of a group lie in the network's parameters and buffers.

        Returns:
            Tensor name, axis, and `[width, times]` entries of that axis, row i of which belong to structure i.
        """
        place = {root: i for i, root in enumerate(self[name].roots.tolist())}
        found = []
        for axis in self.axes:
            rows: list[list[int]] = [[] for _ in place]
            for entry, root in enumerate(self.roots[axis.ids].tolist()):
                if root in place:
                    rows[place[root]].append(entry)
            if any(rows):
                found.append((axis.tensor, axis.dim, torch.tensor(rows)))
        return found

    def dense(self) -> Allocation:
        """Returns the allocation that keeps every structure of every group."""
        return Allocation({group.name: group.group.width for group in self.groups})

    def keep_mask(self, kept: Kept) -> Tensor:
        """Returns for every channel id whether it stays, `[ids]`.

        Raises:
            UserError: a group or structure does not exist, or nothing of a group would stay.
        """
        keep = torch.ones(len(self.roots), dtype=torch.bool)
        for name, structures in kept.items():
            roots = self[name].roots
            wanted = torch.as_tensor(list(structures), dtype=torch.long)
            if len(wanted) == 0 or int(wanted.min()) < 0 or int(wanted.max()) >= len(roots):
                raise UserError(f"group {name!r} keeps some of the structures 0 to {len(roots) - 1}, not {structures}")
            keep[roots] = False
            keep[roots[wanted]] = True
        return keep[self.roots]

    def simulate(self, kept: Kept) -> Simulation:
        """Simulates what the thinned network does between its layers.

        Raises:
            UserError: as `keep_mask`.
        """
        return simulate(self.flow, self.keep_mask(kept))


def channels_of(network: nn.Module, source: ChannelGraph | Any) -> ChannelGraph:
    """Returns a network's channels: the source itself where it is them, else found with it as inputs.

    Raises:
        TaskError: the network cannot be traced or run.
    """
    return source if isinstance(source, ChannelGraph) else find_groups(network, source)


def inputs_of(source: ChannelGraph | Any) -> ModelInputs:
    """Returns the samples that channels were found with, or the source itself as inputs."""
    return source.flow.inputs if isinstance(source, ChannelGraph) else ModelInputs.of(source)


def find_groups(network: nn.Module, inputs: Any) -> ChannelGraph:
    """Finds the groups of a network by running a small batch through it in evaluation mode.

    What cannot be pruned is named in the log. Removal is simulated, and channels that reach an operation which cannot
    do without them are frozen as well.

    Args:
        network: is not changed.
        inputs: whatever it takes, see `ModelInputs.of`; two samples are enough.

    Raises:
        TaskError: the network cannot be copied or run.
    """
    given = ModelInputs.of(inputs)
    runs = record_runs(network, given)
    flow = follow_channels(network, runs.recordings, runs.single, given)
    for site, modules in undecided(network, runs):
        why = "which way is taken depends on values" if site.line else "what is done differs from run to run"
        reason = f"{why}, and no run went through {', '.join(modules)}"
        _freeze_around(flow, site, reason)
    graph = _collect(flow)
    while faults := _faults(graph):
        graph = _without(graph, faults)
    for frozen in graph.frozen:
        log.info("%s: its %d channels stay: %s", frozen.layer, frozen.width, frozen.reason)
    for remark in runs.remarks:
        log.warning("%s: %s", type(network).__name__, remark)
    return replace(graph, remarks=runs.remarks)


def _freeze_around(flow: ChannelFlow, site: CallSite, reason: str) -> None:
    """Freezes what a module works with: what it is given, computes itself, and gets from the modules that it calls."""
    flow.channels.line = site.line
    for run in flow.runs:
        recording = run.recording
        nodes: set[fx.Node] = set()
        for node, where in recording.sites.items():
            scope = recording.caller(where.scope) if node.op == "call_module" else where.scope
            if scope == site.scope:
                nodes |= {node, *node.all_input_nodes}
        for call in recording.calls:
            if call.name == site.scope or (call.name and recording.caller(call.name) == site.scope):
                fx.node.map_arg((call.args, call.kwargs, call.result), nodes.add)
        for node in nodes:
            for each in activations_in(run.activations.get(node)):
                for ids in each.ids:
                    flow.channels.freeze(ids, reason)


def _faults(graph: ChannelGraph) -> list[Simulation]:
    """Simulates two removals, an uneven half and all but one; returns those with operations that cannot do without."""
    half = {group.name: _half(group.group.width, draw) for draw, group in enumerate(graph.groups)}
    last = {group.name: [group.group.width - 1] for group in graph.groups}
    return [found for kept in (half, last) if (found := graph.simulate(kept)).faults]


def _half(width: int, draw: int) -> list[int]:
    """Draws about half of the structures, so unevenly that parts of a layer seldom lose equally many."""
    rng = np.random.default_rng(draw)
    stays = rng.random(width) < 0.5
    stays[rng.integers(width)] = True
    return [int(i) for i in stays.nonzero()[0]]


def _without(graph: ChannelGraph, faulty: Sequence[Simulation]) -> ChannelGraph:
    """Freezes the channels that reach operations which cannot do without them.

    First those of the activations there that lost some; where that frees no fault, all that the operation uses, and
    then all channels of the network.
    """
    flow = graph.flow
    structures = sum(group.group.width for group in graph.groups)
    for freeze in (_freeze_lost, _freeze_used, _freeze_everything):
        for simulation in faulty:
            for node, reason in simulation.faults.items():
                site = _run_of(flow, node).recording.sites.get(node)
                flow.channels.line = site.line if site else ""
                freeze(flow, node, simulation, reason)
        graph = _collect(flow)
        if sum(group.group.width for group in graph.groups) < structures:
            break
    return graph


def _run_of(flow: ChannelFlow, node: fx.Node) -> FollowedRun:
    return next(run for run in flow.runs if node in run.recording.values)


def _freeze_lost(flow: ChannelFlow, node: fx.Node, simulation: Simulation, reason: str) -> None:
    run = _run_of(flow, node)
    for source in (node, *_origins(node, run, simulation.activations)):
        dense = activations_in(run.activations.get(source))
        for whole, thin in zip(dense, activations_in(simulation.activations[source]), strict=True):
            if source is node or whole.shape != thin.shape:
                for ids in whole.ids:
                    flow.channels.freeze(ids, reason)


def _freeze_used(flow: ChannelFlow, node: fx.Node, simulation: Simulation, reason: str) -> None:
    run = _run_of(flow, node)
    for source in (node, *_origins(node, run, {})):
        for each in activations_in(run.activations.get(source)):
            for ids in each.ids:
                flow.channels.freeze(ids, reason)


def _freeze_everything(flow: ChannelFlow, node: fx.Node, simulation: Simulation, reason: str) -> None:
    for axis in flow.axes:
        flow.channels.freeze(axis.ids, reason)


def _origins(node: fx.Node, run: FollowedRun, simulated: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """Lists the activations that a node uses, and those from whose shapes its other arguments were computed.

    Args:
        node: an operation.
        run: in which it was done.
        simulated: values in a simulation; numbers that are the same there have no origin.
    """
    found: list[fx.Node] = []
    for source in node.all_input_nodes:
        if source in run.activations:
            found.append(source)
        elif source not in simulated or simulated[source] != run.recording.values.get(source):
            found += _origins(source, run, simulated)
    return found


def _collect(flow: ChannelFlow) -> ChannelGraph:
    """Forms a group of the classes that are not frozen and lie equally often along the same axes of the same layers."""
    roots, reasons = flow.channels.roots(), flow.channels.reasons()
    positions = _positions_by_class(flow.layers, roots)
    costs = _uses_by_class(flow, roots)
    alike: dict[tuple[object, ...], list[int]] = {}
    for root, where in positions.items():
        if root not in reasons and any(side == "out" for _, side in where):
            signature = tuple(sorted((axis, len(found)) for axis, found in where.items()))
            alike.setdefault((signature, tuple(sorted(costs.get(root, {}).items()))), []).append(root)
    groups = [_group(found, positions, flow.layers) for found in alike.values()]
    order = {layer.name: i for i, layer in enumerate(flow.layers)}
    groups.sort(key=lambda g: (order[g.group.producers[0]], int(g.roots[0])))
    return ChannelGraph(flow, _distinct_names(groups), _frozen(flow, roots, reasons), roots)


LayerSide = tuple[str, Side]
"""A layer's name and one of its sides: an axis of channels."""


def _positions_by_class(layers: Sequence[Layer], roots: Tensor) -> dict[int, dict[LayerSide, list[int]]]:
    """Maps the root of each class to its positions along each axis of each layer, in forward order of the layers."""
    positions: dict[int, dict[LayerSide, list[int]]] = {}
    for layer in layers:
        axes: list[tuple[Side, Tensor]] = [(layer.outer_side, layer.outgoing)]
        if layer.incoming is not None:
            axes.append(("in", layer.incoming))
        for side, ids in axes:
            for position, root in enumerate(roots[ids].tolist()):
                positions.setdefault(root, {}).setdefault((layer.name, side), []).append(position)
    return positions


def _uses_by_class(flow: ChannelFlow, roots: Tensor) -> dict[int, Counter[int]]:
    """Maps the root of each class to how often it is counted in each array of ids that costs are counted by."""
    uses: dict[int, Counter[int]] = {}
    arrays = [axis.ids for axis in flow.axes]
    arrays += [ids for products in flow.products.values() for each in products for ids in each.ids]
    for number, ids in enumerate(arrays):
        for root in roots[ids].flatten().tolist():
            uses.setdefault(root, Counter())[number] += 1
    return uses


def _group(found: list[int], positions: dict[int, dict[LayerSide, list[int]]], layers: Sequence[Layer]) -> ChannelGroup:
    """Builds the group of some classes, its structures in the order in which the first producer makes them."""
    where = positions[found[0]]
    types = {layer.name: layer.type for layer in layers}
    producers = tuple(name for name, side in where if side == "out")
    found = sorted(found, key=lambda root: positions[root][producers[0], "out"][0])
    members = tuple(
        Member(name, side, torch.tensor([positions[root][name, side] for root in found])) for name, side in where
    )
    weighted = [layer.name for layer in layers if layer.produces]
    first = next(layer for layer in layers if layer.name == producers[0])
    group = Group(
        first.module or first.name,
        len(found),
        producers,
        tuple(types[name] for name in producers),
        first=weighted[0] in producers,
        last=weighted[-1] in producers,
    )
    return ChannelGroup(group, members, torch.tensor(found))


def _distinct_names(groups: list[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Numbers the later ones of several groups that one layer's channels fall into: `conv`, `conv:2`."""
    seen: Counter[str] = Counter()
    named = []
    for group in groups:
        seen[group.name] += 1
        name = group.name if seen[group.name] == 1 else f"{group.name}:{seen[group.name]}"
        named.append(replace(group, group=replace(group.group, name=name)))
    return tuple(named)


def _frozen(flow: ChannelFlow, roots: Tensor, reasons: dict[int, Reason]) -> tuple[FrozenChannels, ...]:
    """Counts the frozen channels that each layer makes by reason, in forward order."""
    found = Counter(
        (layer.name, reasons[root])
        for layer in flow.layers
        if layer.produces
        for root in roots[layer.outgoing].tolist()
        if root in reasons
    )
    return tuple(FrozenChannels(layer, width, reason.text, reason.line) for (layer, reason), width in found.items())
