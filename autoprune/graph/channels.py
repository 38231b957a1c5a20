"""Follows channels through a network: which must go together, and which must stay.

Every activation gets arrays of channel ids (see `rules.base`). Structural operations (view, cat, chunk, pad, flatten,
permute) run on the ids themselves; an addition ties the ids that meet; a product ties what it sums over; an operation
that is not understood freezes the ids that reach it, which costs prunability, never correctness.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoprune.graph import layers
from autoprune.graph.channel_ids import ChannelIds, axes_of, lay_along
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import ChannelAxis, Layer, LayerKind, Side, qualified_name
from autoprune.graph.modules.recurrent import Prunable
from autoprune.graph.modules.recurrent_axes import recurrent_axes
from autoprune.graph.recording.recordings import Recording
from autoprune.graph.rules import channel_layers, contractions, elementwise, recurrent, shapes
from autoprune.graph.rules.base import Activation, Channels, Operation, Product, activations_in, name_of
from autoprune.graph.rules.table import RULES

_LONGEST = 2**17
"""Axes of bare parameters that are longer hold no channels."""


@dataclass(frozen=True)
class FollowedRun:
    """One run of the network, as it was recorded and followed.

    Attributes:
        activations: operation to its activation; nested lists of them for operations with several results. Operations
            whose value is no tensor are absent.
        opaque: operations that are not understood; the channels that reach them stay.
    """

    recording: Recording
    activations: Mapping[fx.Node, Any]
    opaque: frozenset[fx.Node]


@dataclass(frozen=True)
class ChannelFlow:
    """The channels of a network, as found by following what it did in one run or several.

    Attributes:
        run: of the inputs, in evaluation mode.
        others: runs in which it did other operations: in training mode, or with other values.
        axes: the axes of parameters and buffers that hold channels.
        layers: the layers with channels that can be told apart, in forward order.
        channels: the ids, with what is tied and frozen.
        products: multiply-adds of one sample by operation of the first run, or of one sample's where that does others.
        inputs: a few samples.
    """

    run: FollowedRun
    others: tuple[FollowedRun, ...]
    axes: tuple[ChannelAxis, ...]
    layers: tuple[Layer, ...]
    channels: ChannelIds
    products: Mapping[fx.Node, list[Product]]
    inputs: ModelInputs

    @property
    def runs(self) -> tuple[FollowedRun, ...]:
        return (self.run, *self.others)

    @property
    def traced(self) -> fx.GraphModule:
        """The network's twin, which runs what was recorded."""
        return self.run.recording.traced

    @property
    def activations(self) -> Mapping[fx.Node, Any]:
        return self.run.activations

    @property
    def opaque(self) -> frozenset[fx.Node]:
        return self.run.opaque


def follow_channels(
    network: nn.Module, recordings: Sequence[Recording], single: Recording, inputs: ModelInputs
) -> ChannelFlow:
    """Follows the channels of a network through what it did; what any run ties is tied.

    Args:
        network: is not changed.
        recordings: of a few samples, first that of the inputs in evaluation mode.
        single: of one sample, from which costs are taken; one of these, unless it did the same as the first.
        inputs: those samples.
    """
    follower = _ChannelFollower(network)
    runs = [follower.follow(recording, single) for recording in recordings]
    follower.channels.ids.line = ""
    for run in runs:
        follower.split_evenly(run)
    counted = next((run for run in runs if run.recording is single), runs[0])  # its own where one sample does others
    return ChannelFlow(
        runs[0],
        tuple(runs[1:]),
        tuple(follower.axes.values()),
        tuple(follower.layers(counted)),
        follower.channels.ids,
        {node: found for node, found in follower.channels.products.items() if node in counted.activations},
        inputs.take(2),
    )


class _ChannelFollower:
    """Finds each operation's activation; parameters have the same ids in all runs."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.channels = Channels()
        self.axes: dict[tuple[str, int], ChannelAxis] = {}
        self._found: dict[str, tuple[str, LayerKind, str, int]] = {}
        self._alone: Tensor | None = None
        self._names: dict[int, str] = {}
        self._tensors: dict[str, Tensor] = {}
        for name, module in network.named_modules():
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and id(tensor) not in self._names:
                    self._names[id(tensor)] = qualified_name(name, key)
                    self._tensors[qualified_name(name, key)] = tensor

    def follow(self, recording: Recording, single: Recording) -> FollowedRun:
        """Follows one run; costs are those of `single`."""
        self._recording, self._singles = recording, _matching_values(recording, single)
        self.activations: dict[fx.Node, Any] = {}
        self.opaque: set[fx.Node] = set()
        for node in recording.graph.nodes:
            site = recording.sites.get(node)
            self.channels.ids.line = site.line if site is not None else ""
            found = self._follow(node)
            if found is not None:
                self.activations[node] = found
        return FollowedRun(recording, self.activations, frozenset(self.opaque))

    def _follow(self, node: fx.Node) -> Any:
        """Returns the activation of an operation's result, nested where there are several; None for no tensor."""
        shape = self._recording.values[node]
        if node.op == "output":
            self._freeze_all(node, "it is the network's output")
            return None
        if node.op == "placeholder":
            return _fixed(shape, "it is the network's input")
        if node.op == "get_attr":
            return self._read(node, shape)
        if not _holds_tensors(shape):
            return None
        index = node.args[1] if len(node.args) > 1 else None
        source = self.activations.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        if isinstance(source, list) and isinstance(index, int) and name_of(node) == "getitem":
            return source[index]
        op = self._operation(node, shape)
        if not op.operands() and op.name not in shapes.FILLED and node.op != "call_module":
            return _fixed(shape, "it does not depend on channels")
        found = self._module(op) if node.op == "call_module" else self._call(op)
        return self._freeze_operation(op) if found is None else found

    def split_evenly(self, run: FollowedRun) -> None:
        """Ties what is still split over several axes, so that whatever goes leaves an array.

        Of channels split into groups and channels of a group, those at one position of the last axis are tied, so that
        as many go from every group.
        """
        for node in run.recording.graph.nodes:
            for each in activations_in(run.activations.get(node)):
                for ids in self.channels.rooted(each).ids:
                    axes = axes_of(ids)
                    if len(axes) > 1:
                        self.channels.ids.tie_along(ids, axes[:-1])

    def _operation(self, node: fx.Node, shape: Any) -> Operation:
        recording = self._recording
        name = (
            type(self._network.get_submodule(str(node.target))).__name__ if node.op == "call_module" else name_of(node)
        )
        owner = str(node.target) if node.op == "call_module" else self._owner(node)
        return Operation(
            node, name, shape, self.channels, self.activations, recording.values, recording.kept, self._singles,
            recording.reached, owner,
        )  # fmt: skip

    def _owner(self, node: fx.Node) -> str:
        """Returns the module whose parameter a function uses, else the one that called it."""
        names = [
            self._recording.parameters[source]
            for source in node.all_input_nodes
            if source in self._recording.parameters
        ]
        return layer_of(names[0]) if names else self._recording.sites[node].scope

    def _call(self, op: Operation) -> Any:
        rule = RULES.get(op.name)
        found = rule(op) if rule is not None else None
        if found is not None and op.name in _FUNCTIONS:
            self._add_functional_layer(op)
        return found

    def _freeze_operation(self, op: Operation) -> Any:
        """Freezes the ids that reach an unknown operation, and gives its result none."""
        self.opaque.add(op.node)
        reason = f"{op.owner if op.node.op == 'call_module' else op.node.name} ({op.name}) is not followed"
        self._freeze_all(op.node, reason)
        if op.node.op == "call_module":
            for tensor in self._network.get_submodule(str(op.node.target)).state_dict(keep_vars=True).values():
                for axis in self.axes.values():
                    if axis.tensor == self._names.get(id(tensor)):
                        self.channels.ids.freeze(axis.ids, reason)
        return _fixed(op.shape, reason)

    def _freeze_all(self, node: fx.Node, reason: str) -> None:
        def freeze(source: fx.Node) -> fx.Node:
            if source not in self.activations and isinstance(source.target, type):  # a container
                self._freeze_all(source, reason)
            for each in activations_in(self.activations.get(source)):
                self.channels.freeze(each, reason)
            return source

        fx.node.map_arg((node.args, dict(node.kwargs)), freeze)

    # Parameters

    def _read(self, node: fx.Node, shape: Any) -> Any:
        if not isinstance(shape, torch.Size):
            return None
        name = self._recording.parameters.get(node)
        if name is None:
            return _fixed(shape, f"{node.target} is a constant")
        return self._tensor(name, "passthrough")

    def _parameter(self, module: nn.Module, key: str, *sides: Side) -> Activation | None:
        """Returns a module's parameter or buffer as an activation, its axes of these sides."""
        tensor = getattr(module, key, None)
        return self._tensor(self._names[id(tensor)], *sides) if isinstance(tensor, Tensor) else None

    def _tensor(self, name: str, *sides: Side) -> Activation:
        """Returns a parameter or buffer with ids along its axes: the first ones of these sides, else the last side."""
        tensor = self._tensors[name]
        arrays = []
        for dim, size in enumerate(tensor.shape):
            if not 1 < size <= _LONGEST or (len(sides) > 1 and dim >= len(sides)):
                continue
            side = sides[min(dim, len(sides) - 1)]
            axis = self.axes.get((name, dim))
            if axis is None:
                axis = self.axes[name, dim] = ChannelAxis(name, dim, side, self.channels.new(size))
            elif axis.side == "passthrough" and side != "passthrough":
                axis = self.axes[name, dim] = ChannelAxis(name, dim, side, axis.ids)
            arrays.append(lay_along(axis.ids, tensor.dim(), dim))
        return Activation(tensor.shape, tuple(arrays))

    # Modules

    def _module(self, op: Operation) -> Any:
        module = self._network.get_submodule(str(op.node.target))
        if layers.is_one_of(module, layers.RECURRENT):
            return self._recurrent(op, module)
        kind = layers.layer_kind(module)
        source = op.activation(op.node.args[0] if op.node.args else op.node.kwargs.get("input"))
        if source is None:
            return None
        given: fx.Node = op.node.args[0] if op.node.args else op.node.kwargs["input"]  # type: ignore[assignment]
        if kind == "linear" or kind in ("convolution", "transposed"):
            return self._weighted(op, module, kind, given, source)
        vectors = [
            each
            for key in ("weight", "bias", "running_mean", "running_var")
            if (each := self._parameter(module, key, "passthrough")) is not None
        ]
        if layers.is_one_of(module, (nn.Embedding,)) and module.max_norm is None:
            found: Any = channel_layers.embedding(op, self._parameter(module, "weight", "in", "out"))
        elif layers.is_one_of(module, (nn.LayerNorm, nn.RMSNorm)):
            found = channel_layers.layer_norm(op, source, len(module.normalized_shape), vectors)  # type: ignore[arg-type]
        elif layers.is_one_of(module, (nn.GroupNorm,)):
            found = channel_layers.group_norm(op, source, module.num_groups, vectors)  # type: ignore[arg-type]
        elif kind == "per_channel":
            wanted = layers.axes_per_sample(module)
            found = channel_layers.per_channel(op, source, vectors) if wanted in (None, len(source.shape)) else None
        elif layers.elementwise(module):
            found = elementwise.elementwise(op)
        elif layers.is_one_of(module, layers.SPATIAL):
            axes = next(axes for known, axes in layers.SPATIAL.items() if isinstance(module, known))
            found = channel_layers.spatial(op, axes)
        else:
            found = None
        if found is not None and vectors:
            self._add_layer(op.owner, module, "embedding" if isinstance(module, nn.Embedding) else "per_channel")
        return found

    def _recurrent(self, op: Operation, module: nn.Module) -> Any:
        axes = recurrent_axes(module)  # type: ignore[arg-type]
        tensors: dict[tuple[str, int], Tensor] = {}
        for axis in axes:
            name = self._names[id(getattr(module, axis.tensor))]
            known = self.axes.get((name, axis.dim))
            if known is None:
                size = self._tensors[name].shape[axis.dim]
                known = self.axes[name, axis.dim] = ChannelAxis(name, axis.dim, axis.side, self.channels.new(size))
            tensors[axis.tensor, axis.dim] = known.ids
        found = recurrent.recurrent(op, axes, tensors, whole_states=isinstance(module, Prunable))
        if found is not None:
            for tensor in dict.fromkeys(axis.tensor for axis in axes if axis.dim == 1):
                name = f"{op.owner}.{tensor}".lstrip(".")
                self._found.setdefault(
                    name, (self._names[id(getattr(module, tensor))], "linear", type(module).__name__, 1)
                )
        return found

    def _weighted(self, op: Operation, module: nn.Module, kind: LayerKind, given: fx.Node, source: Activation) -> Any:
        sides: tuple[Side, Side] = ("in", "out") if kind == "transposed" else ("out", "in")
        groups = int(getattr(module, "groups", 1))
        if groups > 1 and groups == getattr(module, "in_channels", 0):
            sides = ("passthrough", "passthrough")
        weight = self._parameter(module, "weight", *sides)
        bias = self._parameter(module, "bias", "passthrough" if "passthrough" in sides else "out")
        assert weight is not None
        if kind == "linear":
            found: Any = contractions.apply_linear(op, given, source, None, weight, bias)
        else:
            found = channel_layers.convolve(op, given, source, weight, bias, groups, kind == "transposed")
        if found is not None:
            self._add_layer(op.owner, module, kind)
        return found

    # Layers

    def _add_layer(self, name: str, module: nn.Module, kind: LayerKind) -> None:
        tensor = getattr(module, "weight", None)
        tensor = tensor if isinstance(tensor, Tensor) else getattr(module, "running_mean", None)
        if isinstance(tensor, Tensor):
            self._found.setdefault(
                name, (self._names[id(tensor)], kind, type(module).__name__, int(getattr(module, "groups", 1)))
            )

    def _add_functional_layer(self, op: Operation) -> None:
        """Adds the layer that a function is which multiplies with a parameter, or with a part of one."""
        factors = op.node.all_input_nodes
        if op.name.endswith("_cell"):
            factors = [each for each in op.node.args[2:4] if isinstance(each, fx.Node)]
        for source in factors:
            origin = source
            while origin.op != "get_attr" and origin.all_input_nodes and (op.fixed(origin) or _takes_part(origin)):
                origin = origin.all_input_nodes[0]
            name = self._recording.parameters.get(origin)
            rank = 0 if name is None else self._tensors[name].dim()
            experts = rank == 3 and op.name == "linear" and _takes_part(source)
            if name is None or rank < 2 or (rank > 2 and "conv" not in op.name and not experts):
                continue
            kind, groups = "experts" if experts else _FUNCTIONS[op.name], 1
            if op.name in ("addmm", "matmul", "mm") and source is factors[-1]:
                kind = "transposed"  # `x @ weight`, whose weight is `[in, out]`
            outer, inner = layers.OUTER_AND_INNER.get(kind, (0, 1))
            for dim, side in ((outer, "out"), (inner, "in")):
                axis = self.axes.get((name, dim))
                if axis is not None and axis.side == "passthrough":
                    self.axes[name, dim] = replace(axis, side=side)  # type: ignore[arg-type]
            if kind in ("convolution", "transposed"):
                groups = op.number(op.arguments(*channel_layers.order_of(op.name)).get("groups", 1))
            self._found.setdefault(layer_of(name), (name, kind, "Parameter", groups))

    def layers(self, run: FollowedRun) -> Iterator[Layer]:
        """Yields the layers, in forward order, then the parameters that are used by themselves."""
        uses: Counter[str] = Counter()
        tensors: Counter[str] = Counter()
        for node, products in self.channels.products.items():
            for each in products if node in run.activations else ():
                uses[each.layer] += each.factor * prod(len(ids.flatten()) for ids in each.ids)
        for name, (tensor, *_) in self._found.items():
            tensors[tensor] += uses[name]
        owned = set()
        for name, (tensor, kind, type_name, groups) in self._found.items():
            size = self._tensors[tensor].numel()
            layer = self._layer(name, tensor, kind, type_name, groups, tensors[tensor] // (2 * size))
            owned |= {
                tensor,
                *(qualified_name(layer_of(tensor), key) for key in ("bias", "running_mean", "running_var")),
            }
            yield layer
        for (tensor, dim), axis in self.axes.items():
            if tensor not in owned:
                yield Layer(tensor, "parameter", "Parameter", None, axis.ids, tensor=tensor, dim=dim)

    def _layer(self, name: str, tensor: str, kind: LayerKind, type_name: str, groups: int, positions: int) -> Layer:
        shape = self._tensors[tensor].shape
        if kind == "per_channel":
            return Layer(name, kind, type_name, None, self._ids_along(tensor, 0), tensor=tensor)
        outer, inner = layers.OUTER_AND_INNER.get(kind, (0, 1))
        outgoing, incoming = self._ids_along(tensor, outer), self._ids_along(tensor, inner)
        if groups > 1 and kind == "transposed":
            outgoing = outgoing.repeat(groups)
        elif groups > 1:
            incoming = incoming.repeat(groups)
        if groups > 1 and shape[1] == 1:  # depthwise: each input channel is tied to what is made of it
            whole = incoming if kind == "transposed" else outgoing
            outgoing, incoming = whole, whole.view(groups, -1)[:, 0]
        return Layer(name, kind, type_name, incoming, outgoing, positions, groups, tensor=tensor)

    def _ids_along(self, tensor: str, dim: int) -> Tensor:
        axis = self.axes.get((tensor, dim))
        if axis is not None:
            return axis.ids
        if self._alone is None:
            self._alone = self.channels.new(1)
            self.channels.ids.freeze(self._alone, "it is not divided")
        return self._alone.expand(self._tensors[tensor].shape[dim])


def layer_of(tensor: str) -> str:
    """Returns the name of the layer that a parameter belongs to: its module, unless it is one of several there."""
    return tensor.removesuffix(".weight")


def _fixed(shape: Any, origin: str) -> Any:
    """Returns activations without ids for each tensor in a value; None where there is no tensor."""
    if isinstance(shape, torch.Size):
        return Activation(shape, origin=origin)
    return [_fixed(each, origin) for each in shape] if isinstance(shape, list) else None


def _takes_part(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is operator.getitem


def _holds_tensors(shape: Any) -> bool:
    return isinstance(shape, torch.Size) or (isinstance(shape, list) and any(map(_holds_tensors, shape)))


def _matching_values(recording: Recording, single: Recording) -> Mapping[fx.Node, Any]:
    """Returns the values of a run with one sample by the operations of another run; nothing where these differ."""
    ours, theirs = list(recording.graph.nodes), list(single.graph.nodes)
    same = len(ours) == len(theirs) and all(
        a.op == b.op and a.target == b.target for a, b in zip(ours, theirs, strict=True)
    )
    return {a: single.values[b] for a, b in zip(ours, theirs, strict=True)} if same else {}


_FUNCTIONS: Mapping[str, LayerKind] = {
    "linear": "linear",
    "embedding": "embedding",
    **dict.fromkeys(("addmm", "matmul", "mm"), "linear"),
    **dict.fromkeys(("gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"), "linear"),
    **{f"conv{axes}d": "convolution" for axes in (1, 2, 3)},
    **{f"conv_transpose{axes}d": "transposed" for axes in (1, 2, 3)},
}
