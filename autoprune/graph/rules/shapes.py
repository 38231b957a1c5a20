"""Rules of operations that move values without changing them: these are run on the channel ids themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from autoprune.graph.channel_ids import axes_of, compress, first_along, lay_along
from autoprune.graph.rules.base import Activation, Operation

STRUCTURAL = frozenset(
    """
    H T adjoint broadcast_to chunk diagonal dsplit expand expand_as flatten flip fliplr flipud gather getitem hsplit
    index_select mH mT masked_select movedim moveaxis narrow permute ravel repeat repeat_interleave reshape reshape_as
    roll rot90 select split split_with_sizes squeeze swapaxes swapdims t take_along_dim tensor_split tile transpose
    unbind unflatten unfold unsafe_chunk unsafe_split unsqueeze view view_as vsplit
    """.split()
)
CONCATENATIONS = frozenset("cat concat concatenate".split())
STACKS = frozenset("dstack hstack stack vstack".split())
# Make a tensor of a given shape with the same value, or values of no order, everywhere.
FILLED = frozenset("empty full new_empty new_full new_ones new_zeros normal ones rand randn zeros".split())
_MOST_ENTRIES = 2**16
"""Axes of filled tensors that are longer hold no channels."""


def structural(op: Operation) -> Any:
    """Runs the operation on ids in place of the first activation; others among its arguments hold positions."""
    source = next((given for given in (*op.node.args, *op.node.kwargs.values()) if op.activation(given)), None)
    first = op.activation(source)
    if first is None or not isinstance(source, fx.Node):
        return None
    others = [each for each in op.operands() if each is not first]
    if any(each.ids or each.statistics for each in others) and not op.name.endswith("_as"):  # which ask for a shape
        return None
    run = call_with(op.node, op.name)
    ids = op.channels.rooted(first).ids
    results: list[Any] = []
    for array in ids:
        whole = array.expand(_filled(first.shape))
        positions = _indices_of_positions(op, array)
        moved = _spread(_run_on(whole, source, op, run, positions), op.shape if positions else None)
        if moved is None or not _same_shapes(moved, op.shape):
            return None
        varying = iter(()) if positions else _with_other_indices(whole, source, op, run)
        if any(not _same_ids(moved, other) for other in varying):
            op.channels.ids.freeze(array, f"which of them {op.node.name} takes depends on the inputs")
            continue
        results.append(moved)
    return _collect(op, op.shape, results, first)


def _collect(op: Operation, shape: Any, arrays: Sequence[Any], source: Activation) -> Any:
    if isinstance(shape, torch.Size):
        for ids in arrays:
            if shape.numel() and ids.dim() and not axes_of(compress(ids)) and shape.numel() > 0:
                # One channel alone: what becomes of it without the channel?
                op.channels.ids.freeze(compress(ids), f"{op.node.name} takes it alone")
        kept = op.result([ids for ids in arrays if ids.numel()], shape)
        return Activation(shape, kept.ids, source.statistics, "" if kept.ids else source.origin)
    if isinstance(shape, list):
        return [_collect(op, each, [ids[i] for ids in arrays], source) for i, each in enumerate(shape)]
    return shape


def call_with(node: fx.Node, name: str) -> Callable[[Any, Any], Any]:
    """Returns what calls a node's function or method on other arguments; a `view` works on any layout in memory."""

    def run(args: Any, kwargs: Any) -> Any:
        if name == "unfold" and node.op == "call_function":
            return F.unfold(args[0].double(), *args[1:], **kwargs).long()
        if node.op == "call_method":
            method = "reshape" if node.target == "view" else str(node.target)
            return getattr(args[0], method)(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    return run


def _indices_of_positions(op: Operation, ids: Tensor) -> dict[fx.Node, Tensor]:
    """Returns single ones in place of those indices that choose positions, if no others are known by the data alone.

    Args:
        op: the operation.
        ids: `[…]` of what is indexed.
    """
    index = op.node.args[1] if op.name == "getitem" else ()
    items = index if isinstance(index, tuple) else (index,)
    consumed = sum(item is not None and item is not Ellipsis for item in items)
    found: dict[fx.Node, Tensor] = {}
    axis = 0
    for item in items:
        if isinstance(item, fx.Node) and isinstance(op.values.get(item), torch.Size):
            value = op.kept.get(item)
            if value is None or value.dtype is torch.bool or axis >= ids.dim():
                return {}
            if ids.size(axis) == 1:
                found[item] = value.new_zeros([1] * value.dim())
            elif not op.fixed(item) or item in found:
                return {}
        axis += 0 if item is None else ids.dim() - consumed if item is Ellipsis else 1
    return found


def _spread(moved: Any, shape: Any) -> Any:
    """Returns `[…]` ids repeated to a shape; as they are where none is given or they do not fit."""
    if not isinstance(moved, Tensor) or not isinstance(shape, torch.Size):
        return moved
    try:
        return moved.expand(_filled(shape))
    except RuntimeError:
        return moved


def _with_other_indices(ids: Tensor, source: fx.Node, op: Operation, run: Callable[[Any, Any], Any]) -> Iterator[Any]:
    """Yields what an operation does with other values of those indices that depend on the network's inputs."""
    varying = {
        node: op.kept[node]
        for node in op.node.all_input_nodes
        if node in op.kept and not op.fixed(node) and op.kept[node].numel()
    }
    varying.pop(source, None)
    if not varying or not axes_of(compress(ids)):
        return
    for change in (_reversed, _turned, lambda index: index + 1 if index.dtype is not torch.bool else index):
        found = _run_on(ids, source, op, run, {node: change(index) for node, index in varying.items()})
        if found is not None and _same_shapes(found, op.shape):
            yield found


def _reversed(index: Tensor) -> Tensor:
    return index.flip(list(range(index.dim())))


def _turned(index: Tensor) -> Tensor:
    return index if index.dtype is torch.bool or not index.numel() else index.max() - index


def _same_ids(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return all(map(_same_ids, one, other))


def _run_on(
    ids: Tensor,
    source: fx.Node,
    op: Operation,
    run: Callable[[Any, Any], Any],
    indices: Mapping[fx.Node, Tensor] | None = None,
) -> Any:
    def replace(node: fx.Node) -> Any:
        if node is source:
            return ids
        if indices and node in indices:
            return indices[node]
        if node in op.kept:
            index = op.kept[node]
            return index if index.numel() else index.new_zeros(_filled(index.shape))
        value = op.values.get(node)
        return torch.zeros(1).expand(value) if isinstance(value, torch.Size) and node in op.activations else value

    args, kwargs = fx.node.map_arg((op.node.args, dict(op.node.kwargs)), replace)
    try:
        return run(args, kwargs)
    except (RuntimeError, TypeError, IndexError, KeyError, ValueError, NotImplementedError):
        return None


def _filled(shape: torch.Size) -> torch.Size:
    """Returns a shape with one entry in place of none, so that ids along its other axes have somewhere to be."""
    return torch.Size([max(size, 1) for size in shape])


def _same_shapes(found: Any, wanted: Any) -> bool:
    if isinstance(found, Tensor):
        return isinstance(wanted, torch.Size) and found.shape in (wanted, _filled(wanted))
    many = isinstance(found, (tuple, list)) and isinstance(wanted, list) and len(found) == len(wanted)
    return many and all(_same_shapes(one, other) for one, other in zip(found, wanted, strict=True))


def cat(op: Operation) -> Activation | None:
    """Concatenates channels; where positions are concatenated instead, ties the channels of all parts."""
    given = op.arguments("tensors", "dim")
    parts, dim = _parts(op, given.get("tensors")), op.number(given.get("dim", given.get("axis", 0)))
    if not parts or not isinstance(dim, int):
        return None
    parts = [each for each in parts if each.shape != (0,)]  # torch passes over an old kind of empty tensor
    rank = len(op.shape)
    if not parts or any(len(each.shape) != rank for each in parts):
        return None
    dim %= rank
    parts = [op.channels.rooted(each) for each in parts if each.shape[dim]]
    op.channels.use_statistics(parts, f"{op.node.name} uses")
    if not parts:
        return Activation(op.shape)
    joined = _joined(op, parts, dim)
    # Along the other axes the parts meet entry by entry.
    across = []
    for each in parts:
        rest = tuple(first_along(ids, [dim]) for ids in each.ids if len(axes_of(ids)) > 1 or ids.size(dim) == 1)
        shape = torch.Size([1 if axis == dim else size for axis, size in enumerate(each.shape)])
        across.append(Activation(shape, rest, origin=each.origin))
    shape = torch.Size([1 if axis == dim else size for axis, size in enumerate(op.shape)])
    if joined is not None and any(len(axes_of(ids)) > 1 for each in parts for ids in each.along(dim)):
        return op.result([joined])
    common = op.channels.merge(shape, across, op.node.name)
    return op.result([*common, *([] if joined is None else [joined])])


def _joined(op: Operation, parts: Sequence[Activation], dim: int) -> Tensor | None:
    """Returns the ids along the axis of the parts, or None where they hold none; each part has one array there."""
    if not any(each.along(dim) for each in parts):
        return None
    beside = {axis for each in parts for ids in each.along(dim) for axis in axes_of(ids)} - {dim}
    arrays = []
    for each in parts:
        found: list[Tensor | None] = [*each.along(dim)]
        own, *others = found or [None]
        for ids in others:
            assert ids is not None
            op.channels.ids.freeze(ids, f"{op.node.name} concatenates several kinds of channels")
        if own is None and beside:  # of heads and their channels, here whole heads
            heads = next((ids for ids in each.ids if beside.issuperset(axes_of(ids))), None)
            own = None if heads is None else heads.expand(*heads.shape[:dim], each.shape[dim], *heads.shape[dim + 1 :])
        if own is None:
            fixed = op.channels.new(each.shape[dim])
            op.channels.ids.freeze(fixed, each.origin or f"{op.node.name} concatenates it to other channels")
            own = lay_along(fixed, len(each.shape), dim)
        arrays.append(own)
    axes = {axis for ids in arrays for axis in axes_of(ids)} - {dim}
    sizes = {axis: op.shape[axis] for axis in axes}
    whole = [
        ids.expand([sizes.get(axis, size) if axis != dim else size for axis, size in enumerate(ids.shape)])
        for ids in arrays
    ]
    return torch.cat(whole, dim)


def _parts(op: Operation, given: Any) -> list[Activation]:
    """Returns the activations of a list, or nothing if one is unknown."""
    parts: Any = op.activations.get(given) if isinstance(given, fx.Node) else fx.node.map_arg(given, op.activations.get)
    whole = isinstance(parts, (tuple, list)) and all(isinstance(part, Activation) for part in parts)
    return list(parts) if whole else []


def stack(op: Operation) -> Activation | None:
    """Stacks tensors along a new axis; the channels of all parts correspond."""
    given = op.arguments("tensors", "dim")
    parts, dim = _parts(op, given.get("tensors")), op.number(given.get("dim", 0))
    if op.name != "stack" or not parts or not isinstance(dim, int):
        return None
    dim %= len(op.shape)
    op.channels.use_statistics(parts, f"{op.node.name} uses")
    shape = torch.Size([size for axis, size in enumerate(op.shape) if axis != dim])
    common = op.channels.merge(shape, parts, op.node.name)
    return op.result([ids.unsqueeze(dim) for ids in common])


def pad(op: Operation) -> Activation | None:
    """Gives padded channels ids of their own, which an addition may tie; padded borders belong to their channel."""
    given = op.arguments("input", "pad", "mode", "value")
    source, pads = op.activation(given.get("input")), op.number(given.get("pad"))
    if source is None or not isinstance(pads, (tuple, list)) or not all(isinstance(each, int) for each in pads):
        return None
    op.channels.use_statistics([source], f"{op.node.name} uses")
    rank, result = len(source.shape), []
    for ids in op.channels.rooted(source).ids:
        for i in range(0, len(pads), 2):
            dim, (front, back) = rank - 1 - i // 2, pads[i : i + 2]  # pairs, from the last axis forwards
            if ids.size(dim) == 1 or (front == back == 0):
                continue
            plain = given.get("mode", "constant") == "constant" and not given.get("value")
            if not plain or front < 0 or back < 0 or axes_of(ids) != [dim]:
                return None
            ids = lay_along(torch.cat([op.channels.new(front), ids.flatten(), op.channels.new(back)]), rank, dim)
        result.append(ids)
    return op.result(result)


def filled(op: Operation) -> Activation | None:
    """Gives every axis of a tensor that is the same everywhere ids of its own, which others may be tied to."""
    if not isinstance(op.shape, torch.Size):
        return None
    axes = [dim for dim, size in enumerate(op.shape) if 1 < size <= _MOST_ENTRIES]
    return op.result([lay_along(op.channels.new(op.shape[dim]), len(op.shape), dim) for dim in axes])


def index_add(op: Operation) -> Activation | None:
    """Ties channels that are added, or copied, to some positions of a tensor to those that it holds."""
    given = op.arguments("input", "dim", "index", "source")
    given["source"] = given.get("source", given.get("tensor"))
    dim, parts = op.number(given.get("dim")), [op.activation(given.get(key)) for key in ("input", "source")]
    found = [each for each in parts if each is not None]
    if not isinstance(dim, int) or len(found) != 2 or any(each.along(dim) for each in map(op.channels.rooted, found)):
        return None
    op.channels.use_statistics(found, f"{op.node.name} uses")
    dim %= len(op.shape)
    across = [
        replace(each, shape=torch.Size([1 if axis == dim else size for axis, size in enumerate(each.shape)]))
        for each in found
    ]
    return op.result(op.channels.merge(across[0].shape, across, op.node.name))


def set_item(op: Operation) -> Activation | None:
    """Ties channels that are written into a part of a tensor to those that the part holds."""
    target, index, value = op.node.args
    source, written = op.activation(target), op.activation(value)
    if source is None:
        return None
    if written is None:  # a number
        return Activation(source.shape, op.channels.rooted(source).ids, source.statistics, source.origin)
    parts = []
    for ids in op.channels.rooted(source).ids:
        found = _run_on_index(ids.expand(source.shape), index, op)
        if found is None:
            return None
        parts.append(compress(found))
    shape = _run_on_index(torch.zeros(1).expand(source.shape), index, op)
    if shape is None or len(written.shape) > shape.dim():
        return None
    op.channels.use_statistics([source, written], f"{op.node.name} uses")
    op.channels.merge(shape.shape, [Activation(shape.shape, tuple(parts)), written], op.node.name)
    # What is written may have channels where the rest of the tensor has none.
    if written.ids and not parts:
        return None
    return op.result(source.ids)


def _run_on_index(ids: Tensor, index: Any, op: Operation) -> Tensor | None:
    known = fx.node.map_arg(index, lambda node: op.kept.get(node, op.values.get(node)))
    try:
        return ids[known]
    except (RuntimeError, TypeError, IndexError):
        return None
