"""How each kind of operation passes channel ids on.

A rule gets one operation and returns the ids of its result, or None where it does not understand what the operation
does; the ids that reach it are frozen then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx

from autoprune.graph.channel_ids import ChannelIds, compress, lay_along, varying

# Work on each value alone, or on values of the same place in several tensors.
ELEMENTWISE = frozenset(
    """
    abs add add_ celu celu_ clamp clamp_ clamp_max clamp_min clip clip_ clone contiguous cos detach div div_ dropout
    dropout1d dropout2d dropout3d dropout_ elu elu_ empty_like exp float floordiv full_like gelu half hardshrink
    hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ iadd imul isub itruediv leaky_relu leaky_relu_ log
    log1p logsigmoid maximum minimum mish mish_ mul mul_ multiply neg ones_like pow rand_like randn_like relu relu6
    relu6_ relu_ requires_grad_ rsqrt selu selu_ sigmoid sigmoid_ silu silu_ sin softplus softshrink softsign sqrt
    square stochastic_depth sub sub_ subtract tanh tanh_ tanhshrink to truediv type type_as zeros_like
    """.split()
)
# What makes a network nonlinear.
ACTIVATION_FUNCTIONS = frozenset(
    """
    celu celu_ elu elu_ gelu hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ leaky_relu
    leaky_relu_ logsigmoid mish mish_ prelu relu relu6 relu6_ relu_ selu selu_ sigmoid sigmoid_ silu silu_ softplus
    softshrink softsign tanh tanh_ tanhshrink
    """.split()
)
# Of these only the first argument passes its channels on.
OF_FIRST = frozenset("to type type_as".split())
# Work on positions within a channel, with the number of axes they work on (None: all behind the channels).
SPATIAL: Mapping[str, int | None] = {
    **{f"{name}_pool{n}d": n for name in ("adaptive_avg", "adaptive_max", "avg", "lp", "max") for n in (1, 2, 3)},
    "interpolate": None,
    "upsample": None,
}
# Reduce whole axes to one value.
REDUCTIONS = frozenset("amax amin mean sum std var".split())
# Move values without changing them; run on the ids themselves.
STRUCTURAL = frozenset(
    """
    chunk expand flatten flip getitem movedim permute reshape split squeeze stack swapaxes swapdims t transpose
    tensor_split unbind unflatten unsqueeze view
    """.split()
)
ADDITIONS = frozenset("add add_ iadd".split())
CONCATENATIONS = frozenset("cat concat concatenate".split())
# Make zeros of a given shape.
ZEROS = frozenset("new_zeros zeros".split())
# Per channel: an activation and vectors of one value per channel.
PER_CHANNEL = frozenset("batch_norm instance_norm prelu".split())
# Asks for the shape or the kind; the answer is no activation.
QUESTIONS = frozenset("dim getattr is_complex is_floating_point ndimension numel size".split())
# Where functions known by name come from; a user's own `pad` may do anything.
_LIBRARIES = frozenset("_operator builtins operator torch torchvision".split())
# Of what `getattr` reads from a tensor, that which tells its shape.
SHAPES = frozenset("ndim shape".split())


def name_of(node: fx.Node) -> str:
    """The plain name of the function or method that a node calls; a user's own function has its module before it."""
    if isinstance(node.target, str):
        return node.target
    name = str(getattr(node.target, "__name__", node.target))
    module = getattr(node.target, "__module__", None) or "torch"
    return name if module.partition(".")[0] in _LIBRARIES else f"{module}.{name}"


def arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """A node's arguments by name, positional ones in the order of `names`."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def with_values(value: Any, values: Mapping[fx.Node, Any]) -> Any:
    """An argument with every node in it replaced by its value."""
    return fx.node.map_arg(value, lambda node: values[node])


@dataclass(frozen=True)
class Step:
    """One operation of the network, with what is known when it is reached.

    Attributes:
        value: its result.
        ids: node to channel ids, of the nodes before it.
        env: node to value, of the nodes before it.
    """

    node: fx.Node
    value: Any
    channels: ChannelIds
    ids: Mapping[fx.Node, Any]
    env: Mapping[fx.Node, Any]

    def source(self, *names: str) -> Tensor | None:
        """The ids of the operation's first argument, if that is one activation."""
        given = arguments(self.node, names or ("input",)).get("input")
        ids = self.ids.get(given) if isinstance(given, fx.Node) else None
        return ids if isinstance(ids, Tensor) else None

    def operands(self) -> list[Tensor]:
        """The ids of every activation among the arguments."""
        return [found for source in self.node.all_input_nodes for found in tensors_in(self.ids.get(source))]


def elementwise(step: Step) -> Tensor | None:
    """Ties what meets at the same place; a tensor that is repeated along others' channels stays."""
    shape = step.value.shape
    first = step.source()
    operands = [first] if name_of(step.node) in OF_FIRST and first is not None else step.operands()
    if any(ids.dim() > len(shape) for ids in operands):
        return None
    padded = [ids.reshape([1] * (len(shape) - ids.dim()) + list(ids.shape)) for ids in operands]
    if torch.broadcast_shapes(*(ids.shape for ids in padded)) != shape:  # type: ignore[no-untyped-call]
        return None
    axes = {dim for ids in padded for dim in varying(ids)}
    repeated = [any(ids.size(dim) == 1 and shape[dim] > 1 for dim in axes) for ids in padded]
    for ids, again in zip(padded, repeated, strict=True):
        if again:
            step.channels.freeze(compress(ids), f"{step.node.name} repeats it along other channels")
    whole = [ids for ids, again in zip(padded, repeated, strict=True) if not again]
    return _tied(step.channels, whole).expand(shape) if whole else None


def _tied(channels: ChannelIds, same: Sequence[Tensor]) -> Tensor:
    """The ids of activations whose channels correspond, tied to each other."""
    result = compress(same[0])
    for ids in same[1:]:
        small = compress(ids)
        channels.tie(*torch.broadcast_tensors(result, small))  # type: ignore[no-untyped-call]
        result = result if varying(result) else small
    return result


def spatial(step: Step, axes: int | None) -> Tensor | None:
    """Channels pass as they are; `axes` is how many axes the operation works on, counted from the last.

    A sample without a batch axis would have its channels where this expects the batch, so it is not followed.
    """
    source, value = step.source(), step.value
    if source is None or value.dim() != source.dim() or value.dim() < 3 or axes not in (None, value.dim() - 2):
        return None
    channels = step.channels.along(source, 1)
    return None if channels is None or len(channels) != value.size(1) else lay_along(channels, value.shape, 1)


def reduction(step: Step) -> Tensor | None:
    """Whole axes become one value; channels must not be among them."""
    source, value = step.source(), step.value
    given = arguments(step.node, ("input", "dim", "keepdim"))
    dims = given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    if source is None or not _integers(dims) or step.node.kwargs.keys() - {"input", "dim", "keepdim"}:
        return None
    reduced = {dim % source.dim() for dim in dims}
    if not reduced or reduced & set(varying(step.channels.to_roots(source))):
        return None
    for dim in reduced:
        source = source.narrow(dim, 0, 1)
    return source.reshape(value.shape)


def pad(step: Step) -> Tensor | None:
    """Padded channels get ids of their own (an addition may tie them); padded borders belong to their channel."""
    given = arguments(step.node, ("input", "pad", "mode", "value"))
    source, pads = step.source(), given.get("pad")
    if source is None or not _integers(pads):
        return None
    ids = compress(source)
    for i in range(0, len(pads), 2):
        dim, (front, back) = source.dim() - 1 - i // 2, pads[i : i + 2]
        if ids.size(dim) == 1 or (front == back == 0):
            continue
        plain = given.get("mode", "constant") == "constant" and not given.get("value")
        if not plain or front < 0 or back < 0 or varying(ids) != [dim]:
            return None
        flat = torch.cat([step.channels.new(front), ids.flatten(), step.channels.new(back)])
        ids = lay_along(flat, torch.Size([1] * dim + [len(flat)] + [1] * (ids.dim() - dim - 1)), dim)
    return ids.expand(step.value.shape)


def zeros(step: Step) -> Tensor | None:
    """Channels of zeros, along the second axis, get ids of their own, as padded ones do."""
    shape = step.value.shape
    if len(shape) < 2 or shape[1] == 0:
        return None
    return lay_along(step.channels.new(shape[1]), shape, 1)


def cat(step: Step) -> Tensor | None:
    """Channels one behind the other; where positions are joined instead, the channels of all parts are tied."""
    given = arguments(step.node, ("tensors", "dim"))
    parts, dim = _parts(step, given.get("tensors")), given.get("dim", given.get("axis", 0))
    if not parts or not isinstance(dim, int) or {ids.dim() for ids in parts} != {step.value.dim()}:
        return None
    dim %= step.value.dim()
    axes = {axis for ids in parts for axis in varying(ids)}
    if dim not in axes and axes:
        wide = [ids.narrow(dim, 0, 1) for ids in parts]
        return _tied(step.channels, wide).expand(step.value.shape)
    narrow = [narrow_all_but(ids, {dim} | axes) for ids in parts]
    return untangle(step.channels, torch.cat(narrow, dim).expand(step.value.shape))


def _parts(step: Step, given: Any) -> list[Tensor]:
    """The ids of each tensor in a list; of none if one is unknown."""
    parts: Any = step.ids.get(given) if isinstance(given, fx.Node) else with_values(given, _Known(step.ids))
    whole = isinstance(parts, (tuple, list)) and all(isinstance(part, Tensor) for part in parts)
    return list(parts) if whole else []


class _Known(dict[fx.Node, Any]):
    def __missing__(self, key: fx.Node) -> None:
        return None


def structural(step: Step, run: Callable[[Any, Any], Any]) -> Any:
    """Runs the operation on ids in place of activations; only its first argument may hold any."""
    node = step.node
    inner: list[fx.Node] = []
    fx.node.map_arg((node.args[1:], {k: v for k, v in node.kwargs.items() if k != "input"}), inner.append)
    if any(source in step.ids for source in inner):
        return None
    known = {source: step.ids.get(source, step.env.get(source)) for source in node.all_input_nodes}
    try:
        result = run(with_values(node.args, known), with_values(node.kwargs, known))
    except (RuntimeError, TypeError, IndexError, KeyError, ValueError):
        return None
    if [ids.shape for ids in tensors_in(result)] != [tensor.shape for tensor in tensors_in(step.value)]:
        return None
    if isinstance(result, Tensor):
        return untangle(step.channels, result)
    return [untangle(step.channels, ids) for ids in tensors_in(result)] if isinstance(result, (tuple, list)) else None


def pixel_shuffle(step: Step) -> Tensor | None:
    """Each result channel is laid out from r² neighbouring ones, which are tied."""
    source, value = step.source(), step.value
    channels = step.channels.along(source, 1) if source is not None and source.dim() == value.dim() == 4 else None
    if channels is None or len(channels) % value.size(1):
        return None
    per_result = channels.view(value.size(1), -1)
    step.channels.tie(per_result, per_result[:, :1].expand(per_result.shape))
    return lay_along(per_result[:, 0], value.shape, 1)


def per_channel(step: Step) -> Tensor | None:
    """Vectors of one value per channel are tied to the channels they meet."""
    source = step.source()
    channels = step.channels.along(source, 1) if source is not None and source.dim() >= 2 else None
    if channels is None:
        return None
    for ids in step.operands():
        if ids is source:
            continue
        if ids.shape != channels.shape:
            return None
        step.channels.tie(channels, ids)
    return lay_along(channels, step.value.shape, 1)


def untangle(channels: ChannelIds, ids: Tensor) -> Tensor:
    """Ids that vary along one axis only, as far as ties can bring it about.

    Where channels were split over several axes (groups × channels of a group) the outer ones are tied, so that
    what is removed is removed from every one of them and the rest stays an array.
    """
    small = compress(ids)
    axes = varying(small)
    rooted = channels.to_roots(small) if len(axes) > 1 else small
    if len(varying(rooted)) > 1:
        first = small
        for axis in axes[:-1]:
            first = first.narrow(axis, 0, 1)
        channels.tie(small.contiguous(), first.expand(small.shape).contiguous())
    return small.expand(ids.shape)


def narrow_all_but(ids: Tensor, keep: set[int]) -> Tensor:
    for dim in range(ids.dim()):
        if dim not in keep:
            ids = ids.narrow(dim, 0, 1)
    return ids


def runner(node: fx.Node) -> Callable[[Any, Any], Any]:
    """What runs a structural node on ids. `view` becomes `reshape`: ids are spread without memory of their own."""
    if node.op == "call_method":
        method = "reshape" if node.target == "view" else str(node.target)
        return lambda args, kwargs: getattr(args[0], method)(*args[1:], **kwargs)
    function: Any = node.target
    return lambda args, kwargs: function(*args, **kwargs)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value]
    return [found for item in value for found in tensors_in(item)] if isinstance(value, (tuple, list)) else []


def _integers(value: Any) -> TypeGuard[Sequence[int]]:
    return isinstance(value, (tuple, list)) and all(isinstance(item, int) for item in value)
