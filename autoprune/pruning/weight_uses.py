"""The weights of a network: those of its parameters that something is multiplied with, found by running it once.

No graph of the network is needed: every operation is watched as it is computed, and a parameter, or a view or a copy of
it, is recognised among the operands by where it lies in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._pytree import tree_leaves

from autoprune.graph.costs import measure_costs
from autoprune.graph.flops import FlopCounter, counting
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import CONVOLUTIONS, OVER_CHANNELS, PER_CHANNEL, TRANSPOSED, Layer, LayerKind
from autoprune.graph.recording.running import mode

_PRODUCTS = frozenset("mm addmm _addmm_activation bmm baddbmm addbmm _grouped_mm".split())
_RECURRENT = frozenset("mkldnn_rnn_layer _cudnn_rnn miopen_rnn _lstm_mps".split())
_CONVOLUTIONS = frozenset("convolution _convolution convolution_overrideable mkldnn_convolution".split())
# Of their first argument they make a tensor that is zero where that is zero: weight norm, a mask, another type.
_COPIES = frozenset("clone _to_copy _reshape_copy mul div _weight_norm_interface".split())
_DATA = "data"
# What becomes of positions, of tables of biases and of norms: values that are added, or scale what is normalised.
_ADDED = frozenset(
    f"{_DATA} add add_ sub cat stack index index_select native_layer_norm native_group_norm _fused_rms_norm".split()
)


@dataclass(frozen=True)
class Weight:
    """A parameter that something is multiplied with, or that is looked up in.

    Attributes:
        layer: names it, and says how its axes are laid; `positions` is how often each entry is used for one sample.
        used: whether the network uses it in evaluation mode.
        uncounted: why nothing can be said of its multiply-adds; empty where they are known.
    """

    layer: Layer
    used: bool = True
    uncounted: str = ""


def find_weights(network: nn.Module, inputs: Any) -> list[Weight]:
    """Finds the weights of a network by running one sample through it in evaluation mode.

    They are the parameters of two axes or more that take part in a product (of a convolution, a linear or recurrent
    layer, any matrix product) or are looked up in, or of which something else is computed than a sum (weight norm, a
    mask); of those not used in this mode, all but the norms'. A parameter that is only added is none (positions, say).

    Args:
        network: is left as it is.
        inputs: whatever it takes, see `ModelInputs.of`; only the first sample is used.

    Returns:
        The weights in the order in which they are first used, then those that are not used.
    """
    meter = _WeightMeter(network)
    with mode(network, training=False), torch.no_grad(), counting(meter):
        ModelInputs.of(inputs).take(1).call(network)
    return list(meter.weights())


def measure_effective(network: nn.Module, inputs: Any) -> dict[str, int]:
    """Counts costs as `measure_costs`, without weights that are zero and their multiply-adds; bytes stay.

    Args:
        network: whose weights are counted.
        inputs: whatever it takes, see `ModelInputs.of`.
    """
    costs = measure_costs(network, inputs)
    for weight in find_weights(network, inputs):
        zeros = int((network.get_parameter(weight.layer.weight_name) == 0).sum())
        costs["params"] -= zeros
        costs["flops"] -= 2 * weight.layer.positions * zeros
    return costs


@dataclass(frozen=True)
class _Span:
    """Where in a piece of memory a parameter lies, or a copy that is zero where it is, in an order of its own."""

    first: int
    end: int
    name: str
    copy: bool = False


class _WeightMeter(FlopCounter):  # type: ignore[no-untyped-call]  # as the one that it extends
    """Counts how often each entry of each parameter is used in products."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network
        self._parameters = {
            name: parameter
            for name, parameter in network.named_parameters()
            if not isinstance(parameter, nn.UninitializedParameter) and parameter.layout == torch.strided
        }
        self._spans: dict[int, list[_Span]] = defaultdict(list)
        for name, parameter in self._parameters.items():
            if parameter.numel():
                self._add_span(parameter, name)
        self._kept_alive: list[Tensor] = []  # copies: their memory is not given to anything else
        self._kinds: dict[str, tuple[LayerKind, int]] = {}
        self._times: dict[str, int] = defaultdict(int)
        self._by_entry: dict[str, Tensor] = {}
        self._others: dict[str, set[str]] = defaultdict(set)
        self._used: dict[str, None] = {}
        self._irregular: set[str] = set()

    def _add_span(self, tensor: Tensor, name: str, copy: bool = False) -> None:
        first = int(tensor.storage_offset())
        self._spans[tensor.untyped_storage().data_ptr()].append(_Span(first, first + tensor.numel(), name, copy))

    def _span(self, value: Any) -> _Span | None:
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.numel():
            return None
        start = value.storage_offset()
        spans = self._spans.get(value.untyped_storage().data_ptr(), ())
        return next((span for span in spans if span.first <= start < span.end), None)

    def observe(self, name: str, args: tuple[Any, ...], found: Any, flops: int) -> None:
        """Follows one operation."""
        operands = [(each, span) for each in tree_leaves(list(args)) if (span := self._span(each)) is not None]
        if not operands:
            return
        results = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
        if any(self._span(each) is not None for each in results) and not flops:
            return  # a view
        self._used.update(dict.fromkeys(span.name for _, span in operands))
        if name in _COPIES and operands[0][0] is args[0] and results[0].shape == args[0].shape:
            self._follow_copy(operands[0][0], operands[0][1], results[0])
        elif name == "embedding":
            self._kinds.setdefault(operands[0][1].name, ("embedding", 1))
        elif flops:
            self._multiply(name, args, operands, flops)
        else:
            for _, span in operands:
                self._others[span.name].add(name)

    def _follow_copy(self, tensor: Tensor, span: _Span, copied: Tensor) -> None:
        if tensor.numel() == span.end - span.first:
            self._kept_alive.append(copied)
            self._add_span(copied, span.name, copy=True)
        else:
            self._irregular.add(span.name)

    def _multiply(self, name: str, args: tuple[Any, ...], operands: Sequence[tuple[Tensor, _Span]], flops: int) -> None:
        matrices = [(each, span) for each, span in operands if each.dim() > 1]
        if name in _RECURRENT:
            entries = sum(each.numel() for each in tree_leaves(list(args[1:3])) if _is_matrix(each))
            matrices = [(each, span) for each, span in matrices if each.dim() == 2]
        for each, span in matrices:
            if name in _CONVOLUTIONS and each is args[1]:
                self._kinds.setdefault(span.name, ("transposed" if args[6] else "convolution", args[8]))
            elif name in _PRODUCTS and each is args[-2] and self._span(args[-1]) is not None:
                self._others[span.name].add(_DATA)  # a learned query, say, that a weight is applied to
            elif name in _PRODUCTS and (each is args[-1] or each is args[-2]):
                # `x @ weight` and `weight.T @ x` sum over the first axis.
                turned = self._is_turned(each, span)
                kind: LayerKind = "linear" if turned == (each is args[-1]) else "transposed"
                self._kinds.setdefault(span.name, (kind, 1))
            elif name in _RECURRENT:
                self._kinds.setdefault(span.name, ("linear", 1))
            else:  # an addend, or of a product of three
                self._others[span.name].add(name)
                continue
            self._count(each, span, flops // (2 * (entries if name in _RECURRENT else each.numel())))

    def _is_turned(self, operand: Tensor, span: _Span) -> bool:
        """Tells whether a matrix is the transposed parameter or part of it; of more than two axes it counts as such."""
        parameter = self._parameters[span.name]
        if parameter.dim() != 2 or 1 in parameter.shape:
            return parameter.dim() != 2 or operand.shape[-2:] != parameter.shape
        return operand.stride(-2) != parameter.stride(0)

    def _count(self, operand: Tensor, span: _Span, times: int) -> None:
        """Adds how often the entries of an operand are used to those of its parameter."""
        repeated = any(stride == 0 and size > 1 for size, stride in zip(operand.shape, operand.stride(), strict=True))
        if operand.numel() == span.end - span.first and not repeated:
            self._times[span.name] += times
        elif span.copy:
            self._irregular.add(span.name)
        else:
            index = torch.tensor(operand.storage_offset() - span.first)
            for size, stride in zip(operand.shape, operand.stride(), strict=True):
                index = index.unsqueeze(-1) + stride * torch.arange(size)
            counts = self._by_entry.setdefault(span.name, torch.zeros(span.end - span.first, dtype=torch.long))
            counts.index_add_(0, index.flatten(), torch.full((index.numel(),), times))

    def weights(self) -> Iterator[Weight]:
        """Yields the weights, those that were used first."""
        for name in (*self._used, *(name for name in self._parameters if name not in self._used)):
            if self._parameters[name].dim() > 1 and (name in self._kinds or self._may_be_weight(name)):
                yield self._weight(name)

    def _may_be_weight(self, name: str) -> bool:
        """Tells whether a weight may be computed of a parameter, which no product or look-up uses itself."""
        if sum(size > 1 for size in self._parameters[name].shape) < 2:
            return False
        if name in self._used:
            return not self._others[name] <= _ADDED or name in self._irregular
        return not isinstance(self._owner(name), (*PER_CHANNEL, *OVER_CHANNELS))

    def _owner(self, name: str) -> nn.Module:
        """Returns the module that a parameter is of; of one that is parametrised, the module around it."""
        path = name.rpartition(".")[0]
        while isinstance(module := self._network.get_submodule(path), (ParametrizationList, nn.ParameterList)) or (
            isinstance(module, (nn.ModuleDict, nn.ParameterDict)) and path
        ):
            path = path.rpartition(".")[0]
        return module

    def _weight(self, name: str) -> Weight:
        owner = self._owner(name)
        kind, groups = self._kinds.get(name) or _laid_as(owner)
        times, uncounted = self._times[name], ""
        counts = self._by_entry.get(name)
        if counts is not None and int(counts.min()) == int(counts.max()):
            times += int(counts[0])
        elif counts is not None:
            uncounted = "its entries are used unequally often"
        if name in self._used and name not in self._kinds:
            uncounted = f"what is multiplied is computed of it ({', '.join(sorted(self._others[name])) or 'copied'})"
        elif name in self._irregular:
            uncounted = "parts of it are copied before they are used"
        label = type(owner).__name__.removeprefix("Parametrized")
        unknown = torch.empty(0, dtype=torch.long)
        layer = Layer(
            name.removesuffix(".weight"), kind, label, None, unknown, 0 if uncounted else times, groups, tensor=name
        )
        return Weight(layer, name in self._used, uncounted)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2


def _laid_as(owner: nn.Module) -> tuple[LayerKind, int]:
    """Returns how the weight of a module is laid that was not seen in a product, by the module's class."""
    if isinstance(owner, (*CONVOLUTIONS, *TRANSPOSED)):
        return "transposed" if isinstance(owner, TRANSPOSED) else "convolution", owner.groups
    return "embedding" if isinstance(owner, nn.Embedding) else "linear", 1
