"""Follows channels through a network: which must go together, and which must stay.

Every activation gets an array of channel ids of its own shape. Structural operations (view, cat, chunk, pad, flatten,
permute) run on the ids themselves; an addition ties the ids that meet; a grouped convolution ties its groups to each
other; an operation that is not understood freezes the ids that reach it, which costs prunability, never correctness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoprune.errors import TaskError, describe, foreign_code
from autoprune.graph import layers, rules
from autoprune.graph.capture import mode
from autoprune.graph.channel_ids import ChannelIds, compress, lay_along
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import Layer
from autoprune.graph.rules import QUERIES, RULES, STRUCTURAL, ZEROS, Operation, map_tensors, name_of, tensors_in


@dataclass(frozen=True)
class ChannelFlow:
    """The channels of a network, as found by following one batch through it.

    Attributes:
        ids: node to channel ids, of the shape of its activation; tuples of them for operations with several results.
            Nodes whose value is no tensor are absent.
        values: node to its value; of tensors to their shape.
        layers: the layers with channels that can be told apart, in forward order.
        channels: the ids, with what is tied and frozen.
        opaque: nodes that are not understood; the channels that reach them stay.
        inputs: two samples.
    """

    traced: fx.GraphModule
    ids: Mapping[fx.Node, Any]
    values: Mapping[fx.Node, Any]
    layers: tuple[Layer, ...]
    channels: ChannelIds
    opaque: frozenset[fx.Node]
    inputs: ModelInputs


def follow_channels(network: nn.Module, traced: fx.GraphModule, inputs: ModelInputs) -> ChannelFlow:
    """Runs a batch through the traced network and follows its channels.

    Args:
        network: is not changed.
        traced: the network's twin; it shares the network's modules.
        inputs: a few samples.

    Raises:
        TaskError: the network cannot run on them.
    """
    with mode(traced, training=False), torch.no_grad():
        try:
            with foreign_code():
                inputs.call(traced)
        except Exception as fault:  # whatever the user's network raises
            raise TaskError(f"the network cannot run on {inputs}: {describe(fault)}") from fault
        follower = _ChannelFollower(network, traced)
        follower.run(*inputs.arguments_of(traced.graph))
        follower.freeze_shared_layers()
        positions = _count_positions(traced, follower.layers.values(), inputs.take(1))
    found = tuple(replace(layer, positions=positions[name]) for name, layer in follower.layers.items())
    return ChannelFlow(
        traced, follower.ids, follower.values, found, follower.channels, frozenset(follower.opaque), inputs.take(2)
    )


class _ChannelFollower(fx.Interpreter):
    """Computes each node's value and its ids."""

    def __init__(self, network: nn.Module, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.channels = ChannelIds()
        self.ids: dict[fx.Node, Any] = {}
        self.values: dict[fx.Node, Any] = {}
        self.layers: dict[str, Layer] = {}
        self._tensors = layers.named_tensors(network)
        self.opaque: set[fx.Node] = set()
        self._shared = _shared_tensors(network)
        self._used_elsewhere: set[int] = set()  # identities of tensors that something not followed uses

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n] = map_tensors(value, lambda tensor: tensor.shape)
        ids = self._ids_of(n, value)
        if ids is not None:
            self.ids[n] = ids
        return value

    def freeze_shared_layers(self) -> None:
        """Freezes the layers that share a tensor with another layer, or with something that is not followed."""
        users: dict[int, list[Layer]] = {}
        for layer in self.layers.values():
            for name in {axis.tensor for axis in layers.channel_axes(layer, self._tensors)}:
                users.setdefault(id(self._tensors[name]), []).append(layer)
        for tensor, found in users.items():
            if tensor in self._used_elsewhere or len(found) > 1:
                for layer in found:
                    own = layer.outgoing if layer.incoming is None else torch.cat([layer.outgoing, layer.incoming])
                    self.channels.freeze(own, f"{layer.name} is used in several ways")

    def _ids_of(self, node: fx.Node, value: Any) -> Any:
        """Returns the ids of a node's value, in tuples or lists where it has several results; None for no tensor."""
        if node.op == "output":
            self._freeze_all(node.args, "it is the network's output")
            return None
        if node.op == "placeholder":
            return self._frozen_ids(value, "it is the network's input")
        if node.op == "get_attr":
            return self._bare_tensor(node, value)
        op = Operation(node, value, self.channels, self.ids, self.env)
        if node.op != "call_module" and name_of(node) in ZEROS and isinstance(value, Tensor):
            ids = rules.zeros(op)
        elif not any(source in self.ids for source in node.all_input_nodes):
            return self._frozen_ids(value, "it does not depend on channels") if tensors_in(value) else None
        elif node.op == "call_module":
            ids = self._module_ids(op)
        elif name_of(node) in QUERIES and not tensors_in(value):
            return None
        else:
            ids = _call_ids(op)
        return self._freeze_operation(node, value) if ids is None else ids

    def _freeze_operation(self, node: fx.Node, value: Any) -> Any:
        """Freezes the ids that reach an unknown operation, and gives its result frozen ones."""
        self.opaque.add(node)
        what, kind = node.name, name_of(node)
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            what, kind = str(node.target), type(module).__name__
            self._used_elsewhere |= {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
        reason = f"{what} ({kind}) is not followed"
        self._freeze_all((node.args, node.kwargs), reason)
        return self._frozen_ids(value, reason)

    def _frozen_ids(self, value: Any, reason: str) -> Any:
        """Returns one frozen id for all channels of each tensor in a value; None where there is no tensor."""
        if isinstance(value, Tensor):
            new = self.channels.new(1)  # stands for any number of channels that cannot be told apart
            self.channels.freeze(new, reason)
            return new.view([1] * value.dim()).expand(value.shape)
        if isinstance(value, (tuple, list)) and tensors_in(value):
            return [self._frozen_ids(item, reason) if tensors_in(item) else () for item in value]
        return None

    def _freeze_all(self, value: Any, reason: str) -> None:
        def freeze(node: fx.Node) -> fx.Node:
            for ids in tensors_in(self.ids.get(node)):
                self.channels.freeze(compress(ids), reason)
            return node

        fx.node.map_arg(value, freeze)

    def _module_ids(self, op: Operation) -> Any:
        module = self.fetch_attr(str(op.node.target))
        kind = layers.layer_kind(module)
        if kind is not None:
            return self._layer_ids(op, module, kind)
        if layers.is_one_of(module, layers.STRUCTURAL):
            return rules.structural(op, lambda args, kwargs: module(*args, **kwargs))
        if not isinstance(op.value, Tensor):
            return None
        if layers.elementwise(module):
            return rules.elementwise(op)
        if layers.is_one_of(module, layers.SPATIAL):
            return rules.spatial(op, next(axes for known, axes in layers.SPATIAL.items() if isinstance(module, known)))
        return rules.pixel_shuffle(op) if layers.is_one_of(module, (nn.PixelShuffle,)) else None

    def _layer_ids(self, op: Operation, module: nn.Module, kind: layers.LayerKind) -> Any:
        source, value, name = op.source("input", "output_size"), op.value, str(op.node.target)
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if source is None or len(op.operands()) != 1 or any(id(tensor) in self._shared for tensor in own):
            return None
        axis = -1 if kind == "linear" else 1
        if not _has_batch_axis(module, kind, source):
            return None
        incoming = self.channels.along(source, axis)
        if incoming is None:
            return None
        layer = self.layers.get(name)
        if layer is None:
            layer = self.layers[name] = self._first_call(name, module, kind, incoming)
        else:  # called again: its input channels are the same ones every time
            expected = layer.incoming if layer.incoming is not None else layer.outgoing
            if len(expected) != len(incoming):
                return None
            self.channels.tie(expected, incoming)
        return lay_along(layer.outgoing, value.shape, axis)

    def _first_call(self, name: str, module: nn.Module, kind: layers.LayerKind, incoming: Tensor) -> Layer:
        if kind == "per_channel":
            return Layer(name, kind, type(module).__name__, None, incoming)
        groups = int(getattr(module, "groups", 1))
        out = int(module.out_features if kind == "linear" else module.out_channels)  # type: ignore[arg-type]
        layer = Layer(name, kind, type(module).__name__, incoming, self.channels.new(out), groups=groups)
        self._tie_groups(layer)
        return layer

    def _tie_groups(self, layer: Layer) -> None:
        """Ties across the groups of a convolution, so that each group loses equally many channels.

        A depthwise one passes its channels on instead: each input channel is tied to what is made of it.
        """
        if layer.groups == 1:
            return
        assert layer.incoming is not None  # only producing layers have groups
        incoming = layer.incoming.reshape(layer.groups, -1)
        outgoing = layer.outgoing.reshape(layer.groups, -1)
        if layer.depthwise:
            self.channels.tie(outgoing, incoming.expand(outgoing.shape))
            return
        self.channels.tie(incoming, incoming[:1].expand(incoming.shape))
        self.channels.tie(outgoing, outgoing[:1].expand(outgoing.shape))

    def _bare_tensor(self, node: fx.Node, value: Any) -> Any:
        """Follows a parameter or buffer used by itself if it is a vector, one value per channel; freezes any other."""
        name = str(node.target)
        if not isinstance(value, Tensor):
            return None
        axes = [dim for dim, size in enumerate(value.shape) if size > 1]
        if len(axes) != 1 or id(value) in self._shared or self._tensors.get(name) is not value:
            self._used_elsewhere.add(id(value))
            return self._frozen_ids(value, f"{name} is no vector of one value per channel")
        if name not in self.layers:
            ids = self.channels.new(value.size(axes[0]))
            self.layers[name] = Layer(name, "parameter", "Parameter", None, ids, dim=axes[0])
        return lay_along(self.layers[name].outgoing, value.shape, axes[0])


def _call_ids(op: Operation) -> Any:
    """Returns the ids of a function's or method's result, or None where it is not understood."""
    name = name_of(op.node)
    if name in STRUCTURAL:
        return rules.structural(op, partial(rules.run_operation, op.node.op, op.node.target))
    rule = RULES.get(name)
    return rule(op) if rule is not None and isinstance(op.value, Tensor) else None


def _has_batch_axis(module: nn.Module, kind: layers.LayerKind, source: Tensor) -> bool:
    """Tells whether the activation has the axes a layer expects; one sample alone would have its channels elsewhere."""
    if kind == "linear":
        return source.dim() >= 2
    if kind == "per_channel":
        per_sample = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}
        wanted = [axes for known, axes in per_sample.items() if isinstance(module, known)]
        return source.dim() == wanted[0] if wanted else source.dim() >= 2
    weight: Tensor = module.weight  # type: ignore[assignment]
    return source.dim() == weight.dim()


def _shared_tensors(network: nn.Module) -> set[int]:
    """Returns the identities of tensors that several modules hold (weight tying)."""
    held = Counter(
        id(tensor)
        for module in network.modules()
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    )
    return {tensor for tensor, times in held.items() if times > 1}


def _count_positions(traced: fx.GraphModule, found: Iterable[Layer], sample: ModelInputs) -> Counter[str]:
    """Maps layers to how often each of their weights is used for one sample; 0 for layers per channel."""
    counts: Counter[str] = Counter()

    def count(layer: Layer, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A weight is used once at each position of the output; of a transposed convolution, of the input.
        assert layer.incoming is not None  # hooked below
        there, channels = (inputs[0], layer.incoming) if layer.kind == "transposed" else (output, layer.outgoing)
        counts[layer.name] += there.numel() // len(channels)

    modules = dict(traced.named_modules())  # under their first names; a layer with another one is frozen
    weighted = [layer for layer in found if layer.incoming is not None and layer.name in modules]
    hooks = [modules[layer.name].register_forward_hook(partial(count, layer)) for layer in weighted]
    try:
        sample.call(traced)
    finally:
        for hook in hooks:
            hook.remove()
    return counts
