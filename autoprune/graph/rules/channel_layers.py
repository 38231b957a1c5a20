"""Rules of layers along the axis of channels: convolutions, norms, pools, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.channel_ids import axes_of, lay_along
from autoprune.graph.rules.base import Activation, Channels, Operation, Product
from autoprune.graph.rules.contractions import plus

NORMS_OF_CHANNELS = frozenset("batch_norm instance_norm prelu".split())


def channel_axis(activation: Activation, positions: int | None) -> int:
    """Returns the axis of channels of an activation `[batch, channels, …]` or, of one sample, `[channels, …]`.

    Args:
        activation: of which it is asked.
        positions: number of axes behind the channels; None where there is a batch axis in any case.
    """
    return 1 if positions is None else len(activation.shape) - 1 - positions


def split_by_channel(
    channels: Channels, source: Activation, axis: int, what: str
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Splits an activation's ids into those along the channels and those along the batch; others are frozen.

    Args:
        channels: of the network.
        source: `[batch, channels, …]`.
        axis: of the channels.
        what: the operation, for reasons.

    Returns:
        `[channels]` ids, or None where there are none, and the arrays along the axes before the channels.
    """
    own: Tensor | None = None
    passed = []
    for ids in channels.rooted(source).ids:
        if ids.size(axis) > 1:
            ids = channels.hold(ids, [each for each in axes_of(ids) if each != axis], "")
            if own is None:
                own = ids.flatten()
            else:
                channels.ids.freeze(ids, f"{what} meets several kinds of channels")
        elif all(each < axis for each in axes_of(ids)):
            passed.append(ids)
        else:
            channels.ids.freeze(ids, f"{what} mixes its positions")
    channels.use_statistics([source], f"{what} uses")
    return own, tuple(passed)


def convolve(
    op: Operation,
    given: fx.Node,
    source: Activation,
    weight: Activation,
    bias: Activation | None,
    groups: int,
    transposed: bool,
) -> Activation | None:
    """Follows a convolution; one with groups loses equally many channels of each, a depthwise one passes them on.

    Args:
        op: the operation.
        given: what makes its input.
        source: `[batch, in, …]`.
        weight: `[out, in / groups, …]`, of a transposed one `[in, out / groups, …]`.
        bias: `[out]`.
        groups: of the convolution.
        transposed: whether it is a transposed one.
    """
    channels, what = op.channels, op.node.name
    positions = len(weight.shape) - 2
    axis = channel_axis(source, positions)
    if axis not in (0, 1):
        return None
    incoming, passed = split_by_channel(channels, source, axis, what)
    for ids in weight.ids:
        if axes_of(ids) not in ([0], [1]):
            channels.ids.freeze(ids, f"{what} has kernels along it")
    rows, columns = (_along(weight, dim) for dim in (0, 1))
    ins, count = source.shape[axis], op.shape[axis]
    origin = source.origin or f"{what} reads channels that stay"
    inner = columns
    if groups == 1:
        outer, inner = (columns, rows) if transposed else (rows, columns)
        _tie_or_freeze(channels, incoming, inner, origin, f"{what} has a weight that is not followed")
    elif groups == ins:
        outer = _depthwise(channels, incoming, rows, columns, count, transposed, origin)
        inner = None
    else:
        if incoming is not None:
            per_group = incoming.view(groups, -1)
            channels.ids.tie_along(per_group, [0])
            incoming = incoming if transposed else per_group[0]
        inner = rows if transposed else columns
        _tie_or_freeze(channels, incoming, inner, origin, f"{what} has a weight that is not followed")
        if transposed:
            outer = None if columns is None else columns.repeat(groups)
        else:
            outer = rows
            if rows is not None:
                channels.ids.tie_along(rows.view(groups, -1), [0])
    arrays = [*passed, *([] if outer is None else [lay_along(outer, len(op.shape), axis)])]
    result = op.result(arrays)
    if bias is not None:
        bias = Activation(
            torch.Size([count, *([1] * positions)]), tuple(ids.reshape(-1, *([1] * positions)) for ids in bias.ids)
        )
        result = plus(op, result, bias)
    at = op.single(given, source) if transposed else op.single(op.node, result)
    positions_used = 2 * prod(at) // at[axis] * prod(weight.shape[2:])
    channels.products.setdefault(op.node, []).append(
        _products(op, positions_used, weight.shape, outer, inner, rows, groups, transposed, groups == ins)
    )
    return result


def _products(
    op: Operation,
    factor: int,
    shape: torch.Size,
    outer: Tensor | None,
    inner: Tensor | None,
    rows: Tensor | None,
    groups: int,
    transposed: bool,
    depthwise: bool,
) -> Product:
    """Returns the multiply-adds of a convolution.

    Args:
        op: the convolution.
        factor: how often each combination of channels is used.
        shape: of the weight.
        outer: `[out]` ids of its outputs, or None.
        inner: ids of the inputs of a group, of a transposed one of all inputs, or None.
        rows: ids along the first axis of the weight, or None.
        groups: of the convolution.
        transposed: whether it is a transposed one.
        depthwise: whether each group sees one input.
    """
    if transposed and depthwise:
        size, kept = shape[0] * shape[1], rows
        return Product(
            op.layer_name(), factor * (shape[1] if kept is not None else size), () if kept is None else (kept,)
        )
    counted: list[Tensor] = []
    of_group = shape[0] // groups if transposed else shape[1]
    outputs = shape[1] * groups if transposed else shape[0]
    for ids, size in ((outer, outputs), (inner, of_group)):
        if ids is None:
            factor *= size
        else:
            counted.append(ids[: len(ids) // groups] if transposed and ids is inner and groups > 1 else ids)
    return Product(op.layer_name(), factor, tuple(counted))


def _depthwise(
    channels: Channels,
    incoming: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    count: int,
    transposed: bool,
    origin: str,
) -> Tensor | None:
    """Ties each input channel to the output channels that are made of it alone."""
    if columns is not None:  # of a transposed one: the outputs made of one channel
        channels.ids.freeze(columns, "it is one of several outputs of a channel")
    if rows is None or incoming is None:
        for ids in (rows, incoming):
            if ids is not None:
                channels.ids.freeze(ids, origin)
        return None
    if transposed:
        channels.ids.tie(rows, incoming)
        return incoming.repeat_interleave(count // len(incoming))
    channels.ids.tie(rows.view(len(incoming), -1), incoming[:, None])
    return rows


def _tie_or_freeze(channels: Channels, one: Tensor | None, other: Tensor | None, origin: str, reason: str) -> None:
    if one is not None and other is not None:
        channels.ids.tie(one, other)
    elif other is not None:
        channels.ids.freeze(other, origin)
    elif one is not None:
        channels.ids.freeze(one, reason)


def _along(weight: Activation, dim: int) -> Tensor | None:
    found = [ids.flatten() for ids in weight.ids if axes_of(ids) == [dim]]
    return found[0] if found else None


def convolution(op: Operation) -> Activation | None:
    """`conv1d` to `conv3d` and the transposed ones, called as functions."""
    transposed = "transpose" in op.name
    given = op.arguments(*order_of(op.name))
    source, weight = op.activation(given.get("input")), op.activation(given.get("weight"))
    groups = op.number(given.get("groups", 1))
    if source is None or weight is None or not isinstance(groups, int):
        return None
    return convolve(op, given["input"], source, weight, op.activation(given.get("bias")), groups, transposed)


def order_of(convolution: str) -> list[str]:
    """Returns the order of a convolution's positional arguments."""
    if "transpose" in convolution:
        return "input weight bias stride padding output_padding groups dilation".split()
    return "input weight bias stride padding dilation groups".split()


def per_channel(op: Operation, source: Activation, vectors: Sequence[Activation]) -> Activation | None:
    """Follows a norm of each channel, or slopes: `[channels]` vectors belong to those of `[batch, channels, …]`."""
    rank = len(source.shape)
    if rank < 2:
        return None
    own, passed = split_by_channel(op.channels, source, 1, op.node.name)
    arrays = [*passed, *([] if own is None else [lay_along(own, rank, 1)])]
    return with_vectors(op, Activation(op.shape, tuple(arrays), origin=source.origin), vectors, 1)


def _norm_of_batch(op: Operation, source: Activation, vectors: Sequence[Activation]) -> Activation | None:
    """Follows a norm of each channel over all else, as of a weight's outputs over its inputs: over those that stay."""
    if len(source.shape) < 2:
        return None
    op.channels.use_statistics([source], f"{op.node.name} uses")
    arrays = []
    for ids in op.channels.rooted(source).ids:
        beside = [axis for axis in axes_of(ids) if axis != 1]
        arrays.append(op.channels.hold(ids, beside, "") if ids.size(1) > 1 and beside else ids)
    return with_vectors(op, Activation(op.shape, tuple(arrays), origin=source.origin), vectors, 1)


def with_vectors(op: Operation, result: Activation, vectors: Sequence[Activation], axis: int) -> Activation:
    """Ties vectors of one value per channel to an axis of an activation.

    Args:
        op: the operation.
        result: `[…, channels, …]`.
        vectors: `[channels]` each; those of one value for all have no say.
        axis: of the channels.
    """
    rank = len(result.shape)
    laid = []
    for each in vectors:
        if each.shape.numel() == 1:
            continue
        shape = torch.Size([size if at == axis else 1 for at, size in enumerate(result.shape)])
        laid.append(
            Activation(shape, tuple(lay_along(ids.flatten(), rank, axis) for ids in each.ids), origin=each.origin)
        )
    ids = op.channels.merge(result.shape, [result, *laid], op.node.name)
    return Activation(result.shape, ids, origin="" if ids else result.origin)


def layer_norm(op: Operation, source: Activation, axes: int, vectors: Sequence[Activation]) -> Activation:
    """Follows a norm over the last axes: over all channels they pass, of heads those of a head are held together.

    Args:
        op: the operation.
        source: `[…, channels]`.
        axes: how many axes are normalised over.
        vectors: weight and bias, `[channels]` or of several axes.
    """
    rank = len(source.shape)
    op.channels.use_statistics([source], f"{op.node.name} uses")
    over = list(range(rank - axes, rank))
    arrays = []
    for ids in op.channels.rooted(source).ids:
        inside = [axis for axis in axes_of(ids) if axis in over]
        arrays.append(op.channels.hold(ids, inside, "") if inside and len(inside) < len(axes_of(ids)) else ids)
    result = op.channels.rooted(Activation(op.shape, tuple(arrays), origin=source.origin))
    merged = op.channels.merge(op.shape, [result, *vectors], op.node.name)
    return Activation(op.shape, merged, origin="" if merged else source.origin)


def group_norm(op: Operation, source: Activation, groups: int, vectors: Sequence[Activation]) -> Activation | None:
    """Follows a group norm: it loses whole groups or, where these are fewer than channels of one, as many of each.

    Args:
        op: the operation.
        source: `[batch, channels, …]`.
        groups: how many.
        vectors: weight and bias, `[channels]`.
    """
    rank = len(source.shape)
    if rank < 2 or source.shape[1] % groups:
        return None
    own, passed = split_by_channel(op.channels, source, 1, op.node.name)
    arrays = list(passed)
    if own is not None:
        per_group = own.view(groups, -1)
        if groups > 1:
            op.channels.ids.tie_along(per_group, [1] if whole_groups(groups, len(own)) else [0])
        arrays.append(lay_along(own, rank, 1))
    return with_vectors(op, Activation(op.shape, tuple(arrays), origin=source.origin), vectors, 1)


def whole_groups(groups: int, channels: int) -> bool:
    """Tells whether a group norm loses whole groups; else it loses equally many channels of each."""
    return groups > 1 and groups * groups >= channels


def functional_norm(op: Operation) -> Activation | None:
    """`layer_norm`, `rms_norm`, `group_norm`, `batch_norm`, `instance_norm`, `prelu` and `normalize` as functions."""
    orders = {
        "layer_norm": "input normalized_shape weight bias",
        "rms_norm": "input normalized_shape weight",
        "group_norm": "input num_groups weight bias",
        "batch_norm": "input running_mean running_var weight bias",
        "instance_norm": "input running_mean running_var weight bias",
        "prelu": "input weight",
        "normalize": "input p dim",
    }
    given = op.arguments(*orders[op.name].split())
    source = op.activation(given.get("input"))
    if source is None:
        return None
    keys = ("running_mean", "running_var", "weight", "bias")
    vectors = [each for key in keys if (each := op.activation(given.get(key))) is not None]
    if op.name == "batch_norm" and op.activation(given.get("running_mean")) is None:
        return _norm_of_batch(op, source, vectors)
    if op.name in NORMS_OF_CHANNELS:
        return per_channel(op, source, vectors)
    if op.name == "group_norm":
        groups = op.number(given["num_groups"])
        return group_norm(op, source, groups, vectors) if isinstance(groups, int) else None
    if op.name == "normalize":
        return _normalize(op, source, op.number(given.get("dim", 1)))
    shape = op.number(given["normalized_shape"])
    return layer_norm(op, source, len(shape) if isinstance(shape, (tuple, list)) else 1, vectors)


def _normalize(op: Operation, source: Activation, dim: object) -> Activation | None:
    if not isinstance(dim, int):
        return None
    op.channels.use_statistics([source], f"{op.node.name} uses")
    arrays = []
    for ids in op.channels.rooted(source).ids:
        joint = ids.size(dim) > 1 and len(axes_of(ids)) > 1
        arrays.append(op.channels.hold(ids, [dim % len(source.shape)], "") if joint else ids)
    return op.result(arrays)


def spatial(op: Operation, positions: int | None = None) -> Any:
    """Passes channels on unchanged, those of an activation `[batch, channels, …]`.

    Args:
        op: works on the positions of each channel alone.
        positions: how many axes of positions it works on, the last ones; None is any number behind a batch axis.
    """
    source = op.activation(op.node.args[0] if op.node.args else op.node.kwargs.get("input"))
    shapes = op.shape if isinstance(op.shape, list) else [op.shape]
    if source is None or any(not isinstance(s, torch.Size) or len(s) != len(source.shape) for s in shapes):
        return None
    axis = channel_axis(source, positions)
    if axis not in (0, 1) or len(source.shape) < 2 or any(shape[axis] != source.shape[axis] for shape in shapes):
        return None
    own, passed = split_by_channel(op.channels, source, axis, op.node.name)
    arrays = [*passed, *([] if own is None else [lay_along(own, len(source.shape), axis)])]
    results = [Activation(s, op.result(arrays, s).ids, origin="" if own is not None else source.origin) for s in shapes]
    return results if isinstance(op.shape, list) else results[0]


def read_at_positions(op: Operation) -> Activation | None:
    """Passes channels on where positions are read by coordinates: `grid_sample`, `roi_align` and the like."""
    source = op.activation(op.node.args[0] if op.node.args else op.node.kwargs.get("input"))
    others = [each for each in op.operands() if each is not source]
    if (
        source is None
        or len(source.shape) < 3
        or any(each.ids for each in others)
        or len(op.shape) != len(source.shape)
    ):
        return None
    own, _ = split_by_channel(op.channels, source, 1, op.node.name)
    return op.result([] if own is None else [lay_along(own, len(op.shape), 1)])


def embedding(op: Operation, weight: Activation) -> Activation:
    """Follows a look-up of rows, `[rows, channels]`, by numbers; the rows stay.

    Args:
        op: the operation; its result is `[…, channels]`.
        weight: the table.
    """
    for ids in weight.ids:
        if axes_of(ids) != [1]:
            op.channels.ids.freeze(ids, f"{op.node.name} looks rows up by their number")
    columns = _along(weight, 1)
    return op.result([] if columns is None else [lay_along(columns, len(op.shape), -1)])


def functional_embedding(op: Operation) -> Activation | None:
    """`embedding` called as a function."""
    given = op.arguments("input", "weight", "padding_idx", "max_norm")
    weight = op.activation(given.get("weight"))
    return embedding(op, weight) if weight is not None and given.get("max_norm") is None else None
