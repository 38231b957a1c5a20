"""What a network costs: counted on itself, operation by operation, and predicted for every allocation of its groups."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from autoprune.core.budget import CostKind
from autoprune.core.costs import ONE, CostTable, CostTerm, Count
from autoprune.graph.flops import FlopCounter, counting
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import ChannelAxis, stored_tensors
from autoprune.graph.recording.running import mode, run


def count_flops(network: nn.Module, inputs: Any) -> int:
    """Counts floating-point operations of one sample's forward pass, those of the mathematics; see `graph.flops`.

    What depends on the length of a sequence is that of the sample's own length.

    Args:
        network: runs in evaluation mode, and is left in the mode it was in.
        inputs: whatever it takes, see `ModelInputs.of`; only the first sample is used.

    Raises:
        TaskError: it cannot run on one sample.
    """
    with mode(network, training=False), torch.no_grad(), counting() as counter:
        run(network, ModelInputs.of(inputs).take(1).clone())
    return counter.flops


def count_params(network: nn.Module) -> int:
    """Counts parameters, each shared one once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_bytes(network: nn.Module) -> int:
    """Counts bytes of parameters and of buffers that a checkpoint holds, each shared one once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in stored_tensors(network).values())


def measure_costs(network: nn.Module, inputs: Any) -> dict[str, int]:
    """Counts FLOPs of one sample, parameters and bytes on the network itself; for `inputs` see `ModelInputs.of`."""
    return {"flops": count_flops(network, inputs), "params": count_params(network), "size": count_bytes(network)}


def build_cost_table(network: nn.Module, graph: ChannelGraph, inputs: Any) -> CostTable:
    """Builds the exact costs of every allocation of the network's groups.

    What no followed layer accounts for (matrix products of attention, layers left as they are) is a constant: their
    channels stay.

    Args:
        network: the dense one.
        graph: of this network.
        inputs: whatever it takes, see `ModelInputs.of`; only the first sample is used.
    """
    count = _kept_counter(graph)
    terms: list[CostTerm] = []
    axes: dict[str, list[ChannelAxis]] = {}
    for axis in graph.axes:
        axes.setdefault(axis.tensor, []).append(axis)
    for node, products in graph.flow.products.items():
        for product in products:
            kept = [count(ids) for ids in product.ids]
            terms.append(_term("flops", product.layer, product.factor, kept, node.name))
    for name, tensor in stored_tensors(network).items():
        found = axes.get(name, [])
        factor, kept = _fold(_entries(tensor.shape, found), [count(axis.ids) for axis in found])
        terms += tensor_terms(name, tensor, factor, *kept)
    rest = count_flops(network, inputs) - CostTable(terms, graph.dense()).dense()["flops"]
    if rest:
        terms.append(CostTerm("flops", "(other operations)", rest))
    return CostTable(terms, graph.dense())


def tensor_terms(name: str, tensor: Tensor, entries: int, *kept: Count) -> list[CostTerm]:
    """Builds the terms of a tensor's bytes and, of a parameter, its number.

    Args:
        name: qualified name of the tensor.
        tensor: `[…]`, a parameter or a buffer.
        entries: how many of its entries belong to one combination of kept channels.
        kept: how many channels stay along each axis that holds any.
    """
    layer = name.rpartition(".")[0] or name
    left, right = (*kept, ONE, ONE)[:2]
    terms = [CostTerm("size", layer, entries * tensor.element_size(), left, right, name)]
    if isinstance(tensor, nn.Parameter):
        terms.append(CostTerm("params", layer, entries, left, right, name))
    return terms


def _kept_counter(graph: ChannelGraph) -> Callable[[Tensor], Count]:
    """Returns a function that counts how many of some `[size]` ids stay, as a function of the widths."""
    owner = {root: group.name for group in graph.groups for root in group.roots.tolist()}
    widths = graph.dense()

    def count(ids: Tensor) -> Count:
        owners = Counter(owner.get(root) for root in graph.roots[ids].flatten().tolist())
        fixed = owners.pop(None, 0)
        return Count(fixed, {name: total // widths[name] for name, total in owners.items() if name is not None})

    return count


def _term(kind: CostKind, layer: str, factor: int, kept: Sequence[Count], source: str) -> CostTerm:
    factor, varying = _fold(factor, kept)
    left, right = (*varying, ONE, ONE)[:2]
    return CostTerm(kind, layer, factor, left, right, source)


def _fold(factor: int, kept: Sequence[Count]) -> tuple[int, list[Count]]:
    """Multiplies what does not vary into the factor; at most two counts may vary."""
    varying = [each for each in kept if each.per_width]
    if len(varying) > 2:
        raise ValueError("a cost that varies with the widths of three axes")
    return factor * prod(each.fixed for each in kept if not each.per_width), varying


def _entries(shape: torch.Size, axes: Collection[ChannelAxis]) -> int:
    """Counts a tensor's entries that belong to one combination of channels: the product of its other axes."""
    sliced = {axis.dim for axis in axes}
    return int(torch.Size([size for dim, size in enumerate(shape) if dim not in sliced]).numel())


@dataclass(frozen=True)
class OperationCosts:
    """What each operation of a traced network costs for one sample, in the order of its graph.

    Attributes:
        flops: `[operations]` as `count_flops` counts them.
        size_bytes: `[operations]` of each operation's value.
    """

    flops: tuple[int, ...]
    size_bytes: tuple[int, ...]

    @property
    def macs_before(self) -> tuple[int, ...]:
        """`[operations + 1]` multiply-adds of all operations before each."""
        return tuple(accumulate((flops // 2 for flops in self.flops), initial=0))


def measure_operations(traced: fx.GraphModule, inputs: Any) -> OperationCosts:
    """Measures each operation of a traced network by running it in evaluation mode.

    Args:
        traced: is left in the mode it was in.
        inputs: whatever it takes, see `ModelInputs.of`; only the first sample is used, but of a list of samples, which
            was traced as a whole, all are, and the costs are divided by their number.
    """
    given = ModelInputs.of(inputs)
    taken = given if given.lists_samples else given.take(1)
    with mode(traced, training=False), torch.no_grad(), counting() as counter:
        meter = _OperationMeter(traced, counter)
        meter.run(*taken.clone().tensors())
    return OperationCosts(*(tuple(cost // len(taken) for cost in costs) for costs in (meter.flops, meter.size_bytes)))


class _OperationMeter(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule, counter: FlopCounter) -> None:
        super().__init__(traced)
        self.counter = counter
        self.flops: list[int] = []
        self.size_bytes: list[int] = []

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.flops
        value = super().run_node(n)
        self.flops.append(self.counter.flops - before)
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        self.size_bytes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return value


def measure_latency(networks: Sequence[nn.Module], inputs: Any, seconds: float = 1.0) -> list[float]:
    """Measures the median milliseconds of one forward pass of each network on the same inputs.

    The networks take turns, so that a machine that slows down slows all of them. They are left in evaluation mode.

    Args:
        networks: on one device.
        inputs: whatever they take, see `ModelInputs.of`, on the networks' device.
        seconds: how long to measure in all, after a warm-up; every network runs at least five times.
    """
    given = ModelInputs.of(inputs)
    times: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for network in networks:
            network.eval()
            for _ in range(3):
                _time_once(network, given)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[-1]) < 5:
            for network, seen in zip(networks, times, strict=True):
                seen.append(_time_once(network, given))
    return [1e3 * statistics.median(seen) for seen in times]


def _time_once(network: nn.Module, inputs: ModelInputs) -> float:
    start = time.perf_counter()
    inputs.call(network)
    if inputs.device.type == "cuda":
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - start
