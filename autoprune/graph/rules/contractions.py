"""Rules of products that sum over an axis: linear layers, matrix products, einsum, attention."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.channel_ids import axes_of
from autoprune.graph.rules.base import Activation, Operation, Product, name_of
from autoprune.graph.rules.shapes import STRUCTURAL

Label = Hashable


@dataclass(frozen=True)
class Factor:
    """One tensor of a product.

    Attributes:
        labels: of its axes; equal ones run together.
        sizes: of its axes for one sample.
        weight: whether it is a parameter, or a part of one.
    """

    activation: Activation
    labels: Sequence[Label]
    sizes: Sequence[int]
    weight: bool


def _is_weight(op: Operation, node: Any) -> bool:
    """Tells whether a tensor does not depend on the inputs, but for which part of a parameter it is (an expert's)."""
    if not isinstance(node, fx.Node) or op.fixed(node):
        return True
    taken = node.op in ("call_function", "call_method") and name_of(node) in STRUCTURAL
    return taken and _is_weight(op, node.args[0])


def contract(op: Operation, factors: Sequence[Factor], output: Sequence[Label], shape: torch.Size) -> Activation:
    """Multiplies tensors and sums over the labels that the output has not.

    Where a weight meets an activation along a summed axis, channels are tied to the weight's inputs. Of an activation
    whose channels are split into heads and channels of a head, a sum over the latter leaves the heads: the channels of
    one are held together. Other sums over channels that would lose some are not exact, so that these are frozen.

    Args:
        op: the operation, for reasons and costs.
        factors: the tensors.
        output: labels of the result's axes.
        shape: of the result.
    """
    channels, what = op.channels, op.node.name
    arrays: list[list[Tensor]] = []
    for factor in factors:
        channels.use_statistics([factor.activation], f"{what} uses")
        own = []
        for ids in channels.rooted(factor.activation).ids:
            inner = [axis for axis in axes_of(ids) if factor.labels[axis] not in output]
            outer = [axis for axis in axes_of(ids) if factor.labels[axis] in output]
            held = inner if outer else inner[1:]
            own.append(channels.hold(ids, held, "") if held else ids)
        arrays.append(own)
    summed = _tie_summed(op, factors, arrays, output)
    operands = []
    for factor, own in zip(factors, arrays, strict=True):
        order = [factor.labels.index(label) if label in factor.labels else None for label in output]
        sizes = torch.Size([1 if axis is None else factor.activation.shape[axis] for axis in order])
        moved = []
        for ids in (channels.ids.rooted(ids) for ids in own):
            axes = axes_of(ids)
            if axes and all(factor.labels[axis] in output for axis in axes):
                moved.append(_laid(ids, order))
        operands.append(Activation(sizes, tuple(moved), origin=factor.activation.origin))
    result = channels.merge(shape, operands, what)
    _count(op, factors, output, [*summed], result)
    origin = next((factor.activation.origin for factor in factors if factor.activation.origin), "")
    return Activation(shape, result, origin="" if result else origin)


def _laid(ids: Tensor, order: Sequence[int | None]) -> Tensor:
    present = [axis for axis in order if axis is not None]
    rest = [axis for axis in range(ids.dim()) if axis not in present]
    moved = ids.permute(*present, *rest).reshape([ids.size(axis) for axis in present])
    sizes = iter(moved.shape)
    return moved.reshape([1 if axis is None else next(sizes) for axis in order])


def _tie_summed(
    op: Operation, factors: Sequence[Factor], arrays: Sequence[Sequence[Tensor]], output: Sequence[Label]
) -> dict[Label, Tensor]:
    """Ties the ids along each summed label; returns them by label."""
    channels, summed = op.channels, {}
    for label in dict.fromkeys(label for factor in factors for label in factor.labels if label not in output):
        found: list[tuple[Factor, Tensor | None]] = []
        for factor, own in zip(factors, arrays, strict=True):
            if label in factor.labels:
                axis = factor.labels.index(label)
                along = [ids.flatten() for ids in own if axes_of(channels.ids.rooted(ids)) == [axis]]
                found.append((factor, along[0] if along else None))
        with_ids = [ids for _, ids in found if ids is not None]
        if not with_ids:
            continue
        if len(with_ids) == len(found) == 1 or (len(with_ids) == len(found) and any(f.weight for f, _ in found)):
            for ids in with_ids[1:]:
                channels.ids.tie(with_ids[0], ids)
            if len(found) == 1:
                channels.ids.freeze(with_ids[0], f"{op.node.name} sums over it")
            summed[label] = with_ids[0]
            continue
        origin = next((factor.activation.origin for factor, ids in found if ids is None), "")
        for ids in with_ids:
            channels.ids.freeze(ids, origin or f"{op.node.name} sums products of activations over it")
    return summed


def _count(
    op: Operation,
    factors: Sequence[Factor],
    output: Sequence[Label],
    summed: Sequence[Label],
    result: Sequence[Tensor],
) -> None:
    """Records the multiply-adds of one sample."""
    sizes: dict[Label, int] = {}
    whole: dict[Label, int] = {}  # of one sample, and of those that were followed
    for factor in factors:
        for found, shape in ((sizes, factor.sizes), (whole, factor.activation.shape)):
            for label, size in zip(factor.labels, shape, strict=True):
                found[label] = size if found.get(label, 1) == 1 else found[label]
    arrays: list[Tensor] = []
    counted: set[Label] = set()
    for ids in result:
        labels = {output[axis] for axis in axes_of(ids)}
        arrays.append(ids)
        counted |= labels
    for factor in factors:
        for label in factor.labels:
            if label in summed and label not in counted:
                axis = factor.labels.index(label)
                along = [ids for ids in factor.activation.ids if ids.size(axis) > 1]
                if along:
                    arrays.append(op.channels.ids.rooted(along[0]).flatten())
                    counted.add(label)
    factor_of_rest = 2 * prod(size for label, size in sizes.items() if label not in counted)
    # The samples of what was followed may lie along an axis with channels, as heads do in a batch of matrices.
    repeated = prod(whole[label] for label in counted)
    factor_of_rest = factor_of_rest * prod(sizes[label] for label in counted) // max(repeated, 1)
    op.channels.products.setdefault(op.node, []).append(Product(op.layer_name(), factor_of_rest, tuple(arrays)))


def linear(op: Operation) -> Activation | None:
    """`[…, in]` times `[out, in]`, plus `[out]`."""
    given = op.arguments("input", "weight", "bias")
    source, weight = op.activation(given.get("input")), op.activation(given.get("weight"))
    if source is None or weight is None or len(weight.shape) != 2 or not source.shape:
        return None
    bias = op.activation(given.get("bias"))
    return apply_linear(op, given["input"], source, given["weight"], weight, bias)


def apply_linear(
    op: Operation,
    given: fx.Node,
    source: Activation,
    weight_node: fx.Node | None,
    weight: Activation,
    bias: Activation | None,
) -> Activation:
    """Follows a linear layer.

    Args:
        op: the operation.
        given: what makes its input.
        source: `[…, in]`.
        weight_node: what makes its weight; None for a module's own.
        weight: `[out, in]`.
        bias: `[out]`.
    """
    rest = list(range(len(source.shape) - 1))
    factors = [
        Factor(source, [*rest, "in"], op.single(given, source), _is_weight(op, given)),
        Factor(weight, ["out", "in"], weight.shape, weight_node is None or _is_weight(op, weight_node)),
    ]
    shape = torch.Size([*source.shape[:-1], weight.shape[0]])
    result = contract(op, factors, [*rest, "out"], shape)
    return plus(op, result, bias)


def plus(op: Operation, result: Activation, *others: Activation | None) -> Activation:
    """Adds further tensors, which broadcast, to a result."""
    addends = [each for each in others if each is not None]
    if not addends:
        return result
    return replace(result, ids=op.channels.merge(result.shape, [result, *addends], op.node.name))


def matrix_vector(op: Operation) -> Activation | None:
    """`[n, k]` times `[k]`; of parameters alone it is part of spectral norm, by which a whole weight is divided."""
    return None if op.fixed(op.node) else matmul(op)


def matmul(op: Operation) -> Activation | None:
    """`[…, n, k]` times `[…, k, m]`; also `bmm`, `mm`, `mv`, `addmm` and `baddbmm`, which add something."""
    names = ("bias", "input", "other") if op.name in ("addmm", "baddbmm", "addbmm", "addmv") else ("input", "other")
    given = dict(zip(names, [*op.node.args, *_second(op)], strict=False))
    left, right = op.activation(given.get("input")), op.activation(given.get("other"))
    if left is None or right is None or not left.shape or not right.shape or op.name in ("addbmm", "addmv"):
        return None
    if op.node.kwargs.keys() & {"beta", "alpha"}:
        return None
    first, second = _matrix_labels(len(left.shape), len(right.shape))
    output = [label for label in dict.fromkeys([*first, *second]) if label != "k"]
    output.sort(key=_order)
    factors = [
        Factor(each, labels, op.single(given[name], each), _is_weight(op, given[name]))
        for name, each, labels in (("input", left, first), ("other", right, second))
    ]
    result = contract(op, factors, output, op.shape)
    return plus(op, result, op.activation(given.get("bias")))


def _order(label: Label) -> int:
    return label if isinstance(label, int) else 1 if label == "n" else 2


def _second(op: Operation) -> list[object]:
    return [op.node.kwargs[key] for key in ("other", "mat2", "batch2", "vec") if key in op.node.kwargs]


def _matrix_labels(left: int, right: int) -> tuple[list[Label], list[Label]]:
    """Labels batch axes by how far they lie from the last, negative so that they sort in order."""
    first: list[Label] = ["k"] if left == 1 else [*range(-left + 2, 0), "n", "k"]
    second: list[Label] = ["k"] if right == 1 else [*range(-right + 2, 0), "k", "m"]
    return first, second


def einsum(op: Operation) -> Activation | None:
    """Any product of letters, with an ellipsis or without an output."""
    equation, *operands = op.node.args
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = list(operands[0])
    found = [op.activation(each) for each in operands]
    if not isinstance(equation, str) or any(each is None for each in found):
        return None
    left, _, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    labels = [_letters(term, len(each.shape)) for term, each in zip(terms, found, strict=True) if each is not None]
    if any(len(set(own)) != len(own) for own in labels):
        return None
    dots = sorted({label for own in labels for label in own if isinstance(label, int)})
    if "->" in equation:
        output = [label for letter in right.replace("...", ".") for label in (dots if letter == "." else [letter])]
    else:
        once = sorted(letter for letter in set(left) - set(".,") if left.count(letter) == 1)
        output = [*dots, *once]
    factors = [
        Factor(each, own, op.single(node, each), _is_weight(op, node))
        for node, each, own in zip(operands, found, labels, strict=True)
        if each is not None
    ]
    return contract(op, factors, output, op.shape)


def _letters(term: str, rank: int) -> list[Label]:
    before, dots, after = term.partition("...")
    if not dots:
        return list(before)
    covered = rank - len(before) - len(after)
    return [*before, *range(-covered, 0), *after]


def attention(op: Operation) -> Activation | None:
    """`softmax(q·kᵀ·scale + mask)·v`, with fewer heads of keys and values than of queries where these are grouped."""
    given = op.arguments("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    nodes = [given.get(name) for name in ("query", "key", "value")]
    found = [op.activation(node) for node in nodes]
    if any(each is None or len(each.shape) < 2 for each in found):
        return None
    query, key, value = (each for each in found if each is not None)
    sizes = [op.single(node, each) for node, each in zip(nodes, (query, key, value), strict=True)]
    if given.get("enable_gqa"):
        times = query.shape[-3] // key.shape[-3]
        key, value = _repeated_heads(op, key, times), _repeated_heads(op, value, times)
        sizes[1:] = [[*each[:-3], each[-3] * times, *each[-2:]] for each in sizes[1:]]
    rank = max(len(each.shape) for each in (query, key, value))
    batch = list(range(-rank + 2, 0))

    def labels(each: Activation, *own: Label) -> list[Label]:
        return [*batch[rank - len(each.shape) :], *own]

    shape = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])  # type: ignore[no-untyped-call]
    shape = torch.Size([*shape, query.shape[-2], key.shape[-2]])
    scores = contract(
        op,
        [
            Factor(query, labels(query, "n", "d"), sizes[0], False),
            Factor(key, labels(key, "m", "d"), sizes[1], False),
        ],
        [*batch[rank - len(shape) :], "n", "m"],
        shape,
    )
    scores = plus(op, scores, op.activation(given.get("attn_mask")))
    ids = tuple(op.channels.hold(each, [len(shape) - 1], "") for each in scores.ids)
    scores = op.channels.rooted(replace(scores, ids=ids, origin=""))
    single = [*(max(a, b) for a, b in zip(sizes[0][:-2], sizes[1][:-2], strict=False)), sizes[0][-2], sizes[1][-2]]
    return contract(
        op,
        [
            Factor(scores, labels(scores, "n", "m"), single, False),
            Factor(value, labels(value, "m", "e"), sizes[2], False),
        ],
        [*batch, "n", "e"],
        op.shape,
    )


def _repeated_heads(op: Operation, each: Activation, times: int) -> Activation:
    axis = len(each.shape) - 3
    ids = tuple(
        ids.repeat_interleave(times, axis) if ids.size(axis) > 1 else ids for ids in op.channels.rooted(each).ids
    )
    shape = torch.Size([size * times if at == axis else size for at, size in enumerate(each.shape)])
    return replace(each, shape=shape, ids=ids)
