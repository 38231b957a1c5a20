"""Rules of operations on each value alone, on values at one position of several tensors, and of reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.channel_ids import axes_of, first_along
from autoprune.graph.rules.base import Activation, Channels, Operation, Statistic, name_of

# Nonlinear functions of each value alone (of `prelu` with one slope per channel).
ACTIVATION_FUNCTIONS = frozenset(
    """
    celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish prelu relu relu6 rrelu selu
    sigmoid silu softplus softshrink softsign swish tanh tanhshrink threshold
    """.split()
)
# Work on each value alone, or on values at the same position in several tensors.
ELEMENTWISE = (ACTIVATION_FUNCTIONS - {"prelu"}) | frozenset(
    """
    abs absolute add addcdiv addcmul alias alpha_dropout and angle asinh atan atan2 atanh bernoulli bitwise_and
    bitwise_not bitwise_or bitwise_xor bool byte ceil clamp clamp_max clamp_min clip clone conj contiguous copy cos
    cosh cpu cuda data deg2rad detach div divide double dropout dropout1d dropout2d dropout3d empty_like eq erf erfc
    erfinv exp exp2 expm1 feature_alpha_dropout fill float float_power floor floor_divide floordiv fmod frac
    full_like ge gt half heaviside hypot imag int invert isfinite isinf isnan le lerp lgamma log log10 log1p log2
    logaddexp logical_and logical_not logical_or logical_xor logit long lt masked_fill maximum minimum mul multiply
    nan_to_num ne neg negative normal ones_like or polygamma pos positive pow rand_like randn_like rdiv real
    reciprocal relu_ remainder requires_grad_ rfloordiv rmod rmul round rpow rsqrt rsub rtruediv sgn sign sin sinc
    sinh softmax_ sqrt square squared_relu stochastic_depth sub subtract tan to tril triu true_divide truediv trunc
    type type_as uniform where xlogy xor zero zeros_like
    """.split()
)
# Elementwise ones of which only the first argument passes its channels on.
_FIRST_ARGUMENT_ONLY = frozenset("to type type_as".split())
# Statistics over channels that norms divide by.
STATISTICS = frozenset("mean norm std std_mean var var_mean vector_norm".split())
REDUCTIONS = STATISTICS | frozenset(
    "all amax amin any argmax argmin count_nonzero logsumexp max min nanmean sum".split()
)
# Work along one axis, whose values they compare or accumulate.
ALONG_AXIS = frozenset(
    "argsort cummax cummin cumprod cumsum log_softmax logcumsumexp softmax softmin sort topk".split()
)
_INVERTING = frozenset("rdiv reciprocal rsqrt rtruediv".split())


def elementwise(op: Operation) -> Activation | None:
    """Ties the ids that meet at one position; see `Channels.merge`."""
    operands = op.operands()
    if op.name in _FIRST_ARGUMENT_ONLY:
        operands = operands[:1]
    if not isinstance(op.shape, torch.Size) or any(len(each.shape) > len(op.shape) for each in operands):
        return None
    ids = op.channels.merge(op.shape, operands, op.node.name)
    statistics = frozenset(number for each in operands for number in each.statistics)
    if statistics:
        statistics = _after(op, operands, ids, statistics)
    origin = next((each.origin for each in operands if each.origin), "")
    return Activation(op.shape, ids, statistics, "" if ids else origin)


def _after(
    op: Operation, operands: Sequence[Activation], ids: Sequence[Tensor], statistics: frozenset[int]
) -> frozenset[int]:
    """Returns the statistics that a result still carries: a norm's, divided by, are none of them any more."""
    channels = op.channels
    if _inverts(op):
        return frozenset(
            _inverted(channels, number) if not each.ids else number for each in operands for number in each.statistics
        )
    if op.name in ("div", "divide", "true_divide", "truediv"):
        dividing = set(operands[1].statistics) if len(operands) > 1 and not operands[1].ids else set()
    elif op.name in ("mul", "multiply", "rmul"):
        dividing = {number for each in operands if not each.ids for number in each.statistics}
        dividing = {number for number in dividing if channels.statistics[number].inverse}
    else:
        return statistics
    meeting = [_classes(channels, each) for each in ids]
    normed = [over for number in dividing if (over := _classes(channels, channels.statistics[number].ids)) in meeting]
    return frozenset(n for n in statistics if _classes(channels, channels.statistics[n].ids) not in normed)


def _inverts(op: Operation) -> bool:
    if op.name in _INVERTING:
        return True
    exponent = op.number(op.arguments("input", "exponent").get("exponent")) if op.name == "pow" else None
    if op.name in ("div", "true_divide", "divide"):
        return bool(op.node.args) and op.activation(op.node.args[0]) is None  # a number divided by a statistic
    return isinstance(exponent, (int, float)) and exponent < 0


def _inverted(channels: Channels, number: int) -> int:
    before = channels.statistics[number]
    channels.statistics.append(Statistic(before.ids, not before.inverse))
    return len(channels.statistics) - 1


def _classes(channels: Channels, ids: Tensor) -> frozenset[int]:
    return frozenset(channels.ids.rooted(ids).flatten().tolist())


def reduction(op: Operation) -> Any:
    """Passes channels on where whole axes are reduced to one value.

    A mean, variance or norm over all channels is a statistic, which may only divide these channels again, as a norm
    does; of heads and their channels, those of a head are held together.
    """
    given = op.arguments("input", "dim", "keepdim")
    source = op.activation(given.get("input", given.get("self")))
    if source is None:
        return None
    if op.activation(_dims_given(op.node)) is not None:  # max and min of two tensors
        return elementwise(op)
    rank = len(source.shape)
    reduced = reduced_axes(op.node, rank, op.number)
    if reduced is None:
        return None
    shapes = op.shape if isinstance(op.shape, list) else [op.shape]
    if not all(isinstance(shape, torch.Size) for shape in shapes):
        return None
    statistics, left = set(source.statistics), []
    arrays = op.channels.rooted(source).ids
    for ids in arrays:
        over = [axis for axis in axes_of(ids) if axis in reduced]
        if len(over) == len(axes_of(ids)):
            if op.name not in STATISTICS:
                return None
            statistics.add(op.channels.take_statistic(ids))
        else:
            left.append(op.channels.hold(ids, over, "") if over else ids)
    results = []
    for shape in shapes:
        kept = [first_along(ids, reduced) for ids in left]
        if len(shape) == rank - len(reduced):
            kept = [ids.reshape([size for axis, size in enumerate(ids.shape) if axis not in reduced]) for ids in kept]
        elif len(shape) != rank:
            return None
        results.append(
            Activation(
                shape, op.channels.rooted(Activation(shape, tuple(kept))).ids, frozenset(statistics), source.origin
            )
        )
    return results if isinstance(op.shape, list) else results[0]


def _dims_given(node: fx.Node) -> Any:
    name, keywords = name_of(node), node.kwargs
    at = 2 if name in ("norm", "vector_norm") else 1  # norm(input, p, dim), vector_norm(x, ord, dim)
    return keywords.get("dim", keywords.get("axis", node.args[at] if len(node.args) > at else None))


def reduced_axes(node: fx.Node, rank: int, number: Callable[[Any], Any]) -> set[int] | None:
    """Returns the axes that a mean, sum, maximum … is taken over; None where that is not known.

    Args:
        node: the operation.
        rank: of its input.
        number: returns an argument with numbers in place of the operations that compute them.
    """
    dims = number(_dims_given(node))
    if isinstance(dims, bool) or not (dims is None or isinstance(dims, int) or _integers(dims)):
        return None
    dims = range(rank) if dims is None or dims == () or dims == [] else [dims] if isinstance(dims, int) else dims
    return {int(dim) % rank for dim in dims} if rank else set()


def along_axis(op: Operation) -> Any:
    """Passes channels on where values along another axis are compared or accumulated; a head's are held together."""
    given = op.arguments("input", "dim")
    if op.name == "topk":
        given = op.arguments("input", "k", "dim")
    source = op.activation(given.get("input", given.get("self")))
    if source is None or not source.shape:
        return None
    dim = op.number(given.get("dim", given.get("axis", -1)))
    if not isinstance(dim, int) or isinstance(dim, bool):
        return None
    dim %= len(source.shape)
    op.channels.use_statistics([source], f"{op.node.name} uses")
    kept = []
    for ids in op.channels.rooted(source).ids:
        if ids.size(dim) > 1 and len(axes_of(ids)) == 1:
            return None
        kept.append(op.channels.hold(ids, [dim], ""))
    shapes = op.shape if isinstance(op.shape, list) else [op.shape]
    results = [op.result(kept, shape) for shape in shapes]
    return results if isinstance(op.shape, list) else results[0]


def _integers(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(item, int) for item in value)
