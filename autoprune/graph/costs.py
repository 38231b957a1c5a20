"""What each layer of a network costs, and the cost table of all its allocations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.costs import CostTable, CostTerm, Count
from autoprune.graph.capture import mode
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import ChannelAxis, Layer, channel_axes


@dataclass(frozen=True)
class LayerProfile:
    """One layer of the dense network.

    Attributes:
        macs: multiply-adds for one sample, over all calls.
        output: shape of its activation behind the batch axis.
    """

    name: str
    type: str
    output: tuple[int, ...]
    macs: int
    params: int


def count_flops(network: nn.Module, inputs: Tensor) -> int:
    """Floating-point operations of one sample's forward pass, as `torch.utils.flop_counter` counts them.

    Args:
        inputs: `[batch, …]`; only the first sample is used. The network is left in the mode it was in.
    """
    with mode(network, training=False), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(inputs[:1])
    return int(counter.get_total_flops())


def count_params(network: nn.Module) -> int:
    """Parameters, each counted once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_bytes(network: nn.Module) -> int:
    """Bytes of parameters and buffers, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(network).values())


def measure_costs(network: nn.Module, inputs: Tensor) -> dict[str, int]:
    """FLOPs, parameters and bytes, counted on the network itself."""
    return {
        "flops": count_flops(network, inputs),
        "params": count_params(network),
        "size": count_bytes(network),
    }


def measure_effective(network: nn.Module, graph: ChannelGraph, inputs: Tensor) -> dict[str, int]:
    """As `measure_costs`, without weights that are zero and their multiply-adds; bytes stay.

    Args:
        graph: of this network; weights of layers that it does not follow count as they are.
    """
    costs = measure_costs(network, inputs)
    tensors = _tensors(network)
    for layer in graph.layers:
        if layer.incoming is not None:
            zeros = int((tensors[f"{layer.name}.weight" if layer.name else "weight"] == 0).sum())
            costs["params"] -= zeros
            costs["flops"] -= 2 * layer.positions * zeros
    return costs


def build_cost_table(network: nn.Module, graph: ChannelGraph, inputs: Tensor) -> CostTable:
    """The exact costs of every allocation of the network's groups.

    What no followed layer accounts for (matrix products of attention, layers left as they are) is a constant: their
    channels stay.
    """
    tensors = _tensors(network)
    counts = _Counts(graph)
    terms: list[CostTerm] = []
    for layer in graph.layers:
        terms += _flop_terms(layer, tensors, counts)
    found: dict[str, dict[int, ChannelAxis]] = {}  # by axis: of a tensor used in several ways each axis counts once
    for layer in graph.layers:
        for axis in channel_axes(layer, tensors):
            found.setdefault(axis.tensor, {})[axis.dim] = axis
    for name, tensor in tensors.items():
        terms += _tensor_terms(name, tensor, list(found.get(name, {}).values()), counts)
    table = CostTable(terms, graph.dense())
    rest = count_flops(network, inputs) - table.dense()["flops"]
    if rest:
        terms.append(CostTerm("flops", "(other operations)", rest))
    return CostTable(terms, graph.dense())


def profile_layers(network: nn.Module, graph: ChannelGraph) -> list[LayerProfile]:
    """The layers with weights that are followed, in forward order."""
    tensors = _tensors(network)
    outputs = {
        str(node.target): tuple(graph.flow.values[node][1:])
        for node in graph.flow.traced.graph.nodes
        if node.op == "call_module"
    }
    return [
        LayerProfile(
            layer.name,
            layer.type,
            outputs.get(layer.name, ()),
            layer.positions * tensors[f"{layer.name}.weight"].numel(),
            sum(p.numel() for p in network.get_submodule(layer.name).parameters()),
        )
        for layer in graph.layers
        if layer.incoming is not None
    ]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


class _Counts:
    """How many of an array of channel ids stay, as a function of the widths."""

    def __init__(self, graph: ChannelGraph) -> None:
        self._roots = graph.roots
        self._owner = {root: group.name for group in graph.groups for root in group.roots.tolist()}
        self._widths = {group.name: group.group.width for group in graph.groups}

    def of(self, ids: Tensor) -> Count:
        owners = [self._owner.get(root) for root in self._roots[ids].tolist()]
        times: dict[str, int] = {}
        for owner in owners:
            if owner is not None:
                times[owner] = times.get(owner, 0) + 1
        return Count(owners.count(None), {name: count // self._widths[name] for name, count in times.items()})


def _flop_terms(layer: Layer, tensors: Mapping[str, Tensor], counts: _Counts) -> list[CostTerm]:
    """Two FLOPs for every weight at every position: positions · kernel · inputs of a group · outputs."""
    if layer.incoming is None:
        return []
    weight = tensors[f"{layer.name}.weight" if layer.name else "weight"]
    factor = 2 * layer.positions * int(weight.shape[2:].numel())
    where = channel_axes(layer, {f"{layer.name}.weight" if layer.name else "weight": weight})
    return [CostTerm("flops", layer.name, factor * _fixed(weight, where), *(counts.of(axis.ids) for axis in where))]


def _fixed(weight: Tensor, where: list[ChannelAxis]) -> int:
    """Entries along the first two axes that hold no channels that could go."""
    sliced = {axis.dim for axis in where}
    return int(torch.Size([size for dim, size in enumerate(weight.shape[:2]) if dim not in sliced]).numel())


def _tensor_terms(name: str, tensor: Tensor, where: list[ChannelAxis], counts: _Counts) -> list[CostTerm]:
    sliced = {axis.dim for axis in where}
    entries = int(torch.Size([size for dim, size in enumerate(tensor.shape) if dim not in sliced]).numel())
    sides = [counts.of(axis.ids) for axis in where]
    layer = name.rpartition(".")[0] or name
    terms = [CostTerm("size", layer, entries * tensor.element_size(), *sides)]
    if isinstance(tensor, nn.Parameter):
        terms.append(CostTerm("params", layer, entries, *sides))
    return terms


def measure_latency(networks: Sequence[nn.Module], inputs: Tensor, seconds: float = 1.0) -> list[float]:
    """Median milliseconds of one forward pass of each network on the same inputs.

    The networks take turns, so that a machine that slows down slows all of them. They are left in evaluation mode.

    Args:
        inputs: `[batch, …]` on the networks' device.
        seconds: how long to measure in all, after a warm-up; every network runs at least five times.
    """
    times: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for network in networks:
            network.eval()
            for _ in range(3):
                _timed(network, inputs)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[-1]) < 5:
            for network, seen in zip(networks, times, strict=True):
                seen.append(_timed(network, inputs))
    return [1e3 * statistics.median(seen) for seen in times]


def _timed(network: nn.Module, inputs: Tensor) -> float:
    start = time.perf_counter()
    network(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - start
