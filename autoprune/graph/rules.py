"""Rules: how each kind of operation passes channel ids on.

A rule takes one operation and returns the ids of its result, or None where it does not understand what the operation
does; the ids that reach it are frozen then. First the kinds of functions and methods, by their plain names; last which
rule each name has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx

from autoprune.graph.channel_ids import ChannelIds, compress, first_along, lay_along, varying

# Nonlinear functions of each value alone (of `prelu` with one slope per channel).
ACTIVATION_FUNCTIONS = frozenset(
    """
    celu celu_ elu elu_ gelu hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ leaky_relu
    leaky_relu_ logsigmoid mish mish_ prelu relu relu6 relu6_ relu_ selu selu_ sigmoid sigmoid_ silu silu_ softplus
    softshrink softsign tanh tanh_ tanhshrink
    """.split()
)
# Work on each value alone, or on values at the same position in several tensors.
ELEMENTWISE = (ACTIVATION_FUNCTIONS - {"prelu"}) | frozenset(
    """
    abs add add_ clamp clamp_ clamp_max clamp_min clip clip_ clone contiguous cos detach div div_ dropout dropout1d
    dropout2d dropout3d dropout_ empty_like exp float floordiv full_like half iadd imul isub itruediv log log1p maximum
    minimum mul mul_ multiply neg ones_like pow rand_like randn_like requires_grad_ rsqrt sin sqrt square
    stochastic_depth sub sub_ subtract to truediv type type_as zeros_like
    """.split()
)
# Elementwise ones of which only the first argument passes its channels on.
FIRST_ARGUMENT_ONLY = frozenset("to type type_as".split())
# Move values without changing them; these are run on the ids themselves.
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
# Ask for the shape or the type; the answer is no activation.
QUERIES = frozenset("dim getattr is_complex is_floating_point ndimension numel size".split())
# Packages whose functions are known by their names; a user's own `pad` may do anything.
_LIBRARIES = frozenset("_operator builtins operator torch torchvision".split())
# Attributes of a tensor that tell its shape.
SHAPE_ATTRIBUTES = frozenset("ndim shape".split())


def name_of(node: fx.Node) -> str:
    """Returns the plain name of the function or method that a node calls, a user's own with its module in front."""
    if isinstance(node.target, str):
        return node.target
    name = str(getattr(node.target, "__name__", node.target))
    module = getattr(node.target, "__module__", None) or "torch"
    return name if module.partition(".")[0] in _LIBRARIES else f"{module}.{name}"


def arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns a node's arguments by name, positional ones in the order of `names`."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def with_values(value: Any, values: Mapping[fx.Node, Any]) -> Any:
    """Returns an argument in which every node is replaced by its value."""
    return fx.node.map_arg(value, lambda node: values[node])


@dataclass(frozen=True)
class Operation:
    """One operation of the network, with what is known when it runs.

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
        """Returns the ids of the operation's first argument, `[…]` as its shape is; None if it is not one activation.

        Args:
            names: of the positional arguments; the first is called `input`.
        """
        given = arguments(self.node, names or ("input",)).get("input")
        ids = self.ids.get(given) if isinstance(given, fx.Node) else None
        return ids if isinstance(ids, Tensor) else None

    def operands(self) -> list[Tensor]:
        """Returns the ids of every activation among the arguments, each `[…]` as its shape is."""
        return [found for source in self.node.all_input_nodes for found in tensors_in(self.ids.get(source))]


def elementwise(op: Operation) -> Tensor | None:
    """Ties the ids that meet at one position; freezes those of a tensor that is repeated along others' channels.

    Returns:
        `[…]` ids in the result's shape, to which the operands are broadcast.
    """
    shape = op.value.shape
    first = op.source()
    operands = [first] if name_of(op.node) in FIRST_ARGUMENT_ONLY and first is not None else op.operands()
    if any(ids.dim() > len(shape) for ids in operands):
        return None
    padded = [ids.reshape([1] * (len(shape) - ids.dim()) + list(ids.shape)) for ids in operands]
    if torch.broadcast_shapes(*(ids.shape for ids in padded)) != shape:  # type: ignore[no-untyped-call]
        return None
    axes = {dim for ids in padded for dim in varying(ids)}
    repeated = [any(ids.size(dim) == 1 and shape[dim] > 1 for dim in axes) for ids in padded]
    for ids, again in zip(padded, repeated, strict=True):
        if again:
            op.channels.freeze(compress(ids), f"{op.node.name} repeats it along other channels")
    whole = [ids for ids, again in zip(padded, repeated, strict=True) if not again]
    return _tied(op.channels, whole).expand(shape) if whole else None


def _tied(channels: ChannelIds, same: Sequence[Tensor]) -> Tensor:
    """Ties the ids of activations whose channels correspond, and returns those of the first that vary."""
    result = compress(same[0])
    for ids in same[1:]:
        small = compress(ids)
        channels.tie(*torch.broadcast_tensors(result, small))  # type: ignore[no-untyped-call]
        result = result if varying(result) else small
    return result


def spatial(op: Operation, axes: int | None = None) -> Tensor | None:
    """Passes channels on unchanged, those of an activation `[batch, channels, …]`.

    A sample without a batch axis would have its channels where this expects the batch, so it is not followed.

    Args:
        op: works on the positions of each channel alone.
        axes: how many axes of positions it works on, the last ones; None is any number.
    """
    source, value = op.source(), op.value
    if source is None or value.dim() != source.dim() or value.dim() < 3 or axes not in (None, value.dim() - 2):
        return None
    channels = op.channels.along(source, 1)
    return None if channels is None or len(channels) != value.size(1) else lay_along(channels, value.shape, 1)


def reduction(op: Operation) -> Tensor | None:
    """Passes channels on where whole axes without channels are reduced to one value: `[batch, channels]` of a mean."""
    source, value = op.source(), op.value
    given = arguments(op.node, ("input", "dim", "keepdim"))
    dims = given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    if source is None or not _integers(dims) or op.node.kwargs.keys() - {"input", "dim", "keepdim"}:
        return None
    reduced = {dim % source.dim() for dim in dims}
    if not reduced or reduced & set(varying(op.channels.to_roots(source))):
        return None
    return first_along(source, reduced).reshape(value.shape)


def pad(op: Operation) -> Tensor | None:
    """Gives padded channels ids of their own, which an addition may tie; padded borders belong to their channel.

    Returns:
        `[…]` ids in the padded shape, or None for padded channels of another value than zero.
    """
    given = arguments(op.node, ("input", "pad", "mode", "value"))
    source, pads = op.source(), given.get("pad")
    if source is None or not _integers(pads):
        return None
    ids = compress(source)
    for i in range(0, len(pads), 2):
        dim, (front, back) = source.dim() - 1 - i // 2, pads[i : i + 2]  # pairs, from the last axis forwards
        if ids.size(dim) == 1 or (front == back == 0):
            continue
        plain = given.get("mode", "constant") == "constant" and not given.get("value")
        if not plain or front < 0 or back < 0 or varying(ids) != [dim]:
            return None
        flat = torch.cat([op.channels.new(front), ids.flatten(), op.channels.new(back)])
        ids = lay_along(flat, torch.Size([1] * dim + [len(flat)] + [1] * (ids.dim() - dim - 1)), dim)
    return ids.expand(op.value.shape)


def zeros(op: Operation) -> Tensor | None:
    """Gives channels of zeros `[batch, channels, …]` ids of their own, as padded ones have."""
    shape = op.value.shape
    if len(shape) < 2 or shape[1] == 0:
        return None
    return lay_along(op.channels.new(shape[1]), shape, 1)


def cat(op: Operation) -> Tensor | None:
    """Concatenates channels; where positions are concatenated instead, ties the channels of all parts.

    Returns:
        `[…]` ids in the result's shape; None where the ids of a part are not known.
    """
    given = arguments(op.node, ("tensors", "dim"))
    parts, dim = _parts(op, given.get("tensors")), given.get("dim", given.get("axis", 0))
    if not parts or not isinstance(dim, int) or {ids.dim() for ids in parts} != {op.value.dim()}:
        return None
    dim %= op.value.dim()
    axes = {axis for ids in parts for axis in varying(ids)}
    if dim not in axes and axes:
        wide = [first_along(ids, [dim]) for ids in parts]
        return _tied(op.channels, wide).expand(op.value.shape)
    narrow = [first_along(ids, set(range(ids.dim())) - {dim} - axes) for ids in parts]
    return tie_outer_axes(op.channels, torch.cat(narrow, dim).expand(op.value.shape))


def _parts(op: Operation, given: Any) -> list[Tensor]:
    """Returns the ids of each tensor in a list, or nothing if those of one are unknown."""
    parts: Any = fx.node.map_arg(given, op.ids.get)
    whole = isinstance(parts, (tuple, list)) and all(isinstance(part, Tensor) for part in parts)
    return list(parts) if whole else []


def structural(op: Operation, run: Callable[[Any, Any], Any]) -> Any:
    """Runs the operation on ids in place of activations; only its first argument may hold any.

    Args:
        op: moves values without changing them.
        run: takes the positional and the keyword arguments, with ids in them.
    """
    node = op.node
    inner: list[fx.Node] = []
    fx.node.map_arg((node.args[1:], {k: v for k, v in node.kwargs.items() if k != "input"}), inner.append)
    if any(source in op.ids for source in inner):
        return None
    known = {source: op.ids.get(source, op.env.get(source)) for source in node.all_input_nodes}
    try:
        result = run(with_values(node.args, known), with_values(node.kwargs, known))
    except (RuntimeError, TypeError, IndexError, KeyError, ValueError):
        return None
    if [ids.shape for ids in tensors_in(result)] != [tensor.shape for tensor in tensors_in(op.value)]:
        return None
    if isinstance(result, Tensor):
        return tie_outer_axes(op.channels, result)
    return (
        [tie_outer_axes(op.channels, ids) for ids in tensors_in(result)] if isinstance(result, (tuple, list)) else None
    )


def pixel_shuffle(op: Operation) -> Tensor | None:
    """Ties the r² neighbouring channels of `[batch, r² · channels, …]` that each result channel is laid out from."""
    source, value = op.source(), op.value
    channels = op.channels.along(source, 1) if source is not None and source.dim() == value.dim() == 4 else None
    if channels is None or len(channels) % value.size(1):
        return None
    per_result = channels.view(value.size(1), -1)
    op.channels.tie(per_result, per_result[:, :1].expand(per_result.shape))
    return lay_along(per_result[:, 0], value.shape, 1)


def per_channel(op: Operation) -> Tensor | None:
    """Ties vectors `[channels]` of one value per channel to the channels of `[batch, channels, …]` that they meet."""
    source = op.source()
    channels = op.channels.along(source, 1) if source is not None and source.dim() >= 2 else None
    if channels is None:
        return None
    for ids in op.operands():
        if ids is source:
            continue
        if ids.shape != channels.shape:
            return None
        op.channels.tie(channels, ids)
    return lay_along(channels, op.value.shape, 1)


def tie_outer_axes(channels: ChannelIds, ids: Tensor) -> Tensor:
    """Ties `[…]` ids that vary along several axes, so that removing some leaves an array; shape unchanged.

    Where channels were split over several axes (groups × channels of a group) those at one position of the last are
    tied, so that whatever goes is removed from every group.
    """
    small = compress(ids)
    axes = varying(small)
    rooted = channels.to_roots(small) if len(axes) > 1 else small
    if len(varying(rooted)) > 1:
        channels.tie(small, first_along(small, axes[:-1]).expand(small.shape))
    return small.expand(ids.shape)


def run_operation(kind: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Runs a function or method on ids in place of activations.

    Args:
        kind: "call_method" or "call_function".
        target: the method's name or the function. `view` runs as `reshape`: expanded ids have no memory of their own.
        args: positional arguments.
        kwargs: keyword arguments.
    """
    if kind == "call_method":
        method = "reshape" if target == "view" else target
        return getattr(args[0], method)(*args[1:], **kwargs)
    return target(*args, **kwargs)


def tensors_in(value: Any) -> list[Tensor]:
    """Lists every tensor, `[…]`, in nested tuples and lists."""
    if isinstance(value, Tensor):
        return [value]
    return [found for item in value for found in tensors_in(item)] if isinstance(value, (tuple, list)) else []


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """Returns a value in which every tensor, `[…]`, in nested tuples and lists is changed; these become lists."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return [map_tensors(item, change) for item in value]
    return value


def _integers(value: Any) -> TypeGuard[Sequence[int]]:
    return isinstance(value, (tuple, list)) and all(isinstance(item, int) for item in value)


_POOLS = ("adaptive_avg", "adaptive_max", "avg", "lp", "max")
RULES: Mapping[str, Callable[[Operation], Tensor | None]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise),
    **dict.fromkeys(CONCATENATIONS, cat),
    **dict.fromkeys(("amax", "amin", "mean", "sum", "std", "var"), reduction),
    **dict.fromkeys(("batch_norm", "instance_norm", "prelu"), per_channel),
    **{f"{name}_pool{axes}d": partial(spatial, axes=axes) for name in _POOLS for axes in (1, 2, 3)},
    **dict.fromkeys(("interpolate", "upsample"), spatial),
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
}
"""The rules of functions and methods with one result, by name; structural ones and zeros have none here."""
