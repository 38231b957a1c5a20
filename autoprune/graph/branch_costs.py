"""What each branch of a network costs: the cost table of every choice of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.costs import COST_KINDS, ONE, CostTable, CostTerm, Count
from autoprune.graph.branches import Branch
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.profile import measure_costs
from autoprune.graph.trace import mode


def build_branch_costs(network: nn.Module, graph: ChannelGraph, branches: Sequence[Branch]) -> CostTable:
    """The exact costs of the network with any of these branches kept (width 1) or removed (width 0).

    FLOPs, parameters and bytes of what is in none of them are constants.
    """
    inputs = graph.followed.inputs
    flops = _flops_by_node(graph.followed.traced, inputs)
    terms: list[CostTerm] = []
    for branch in branches:
        kept = Count(0, {branch.name: 1})
        terms += [CostTerm("flops", _layer(node), flops[node], kept) for node in branch.nodes if flops[node]]
        terms += _tensor_terms(network, branch.tensors, kept)
    table = CostTable(terms, {branch.name: 1 for branch in branches})
    whole, inside = measure_costs(network, inputs), table.dense()
    terms += [CostTerm(kind, "(outside branches)", whole[kind] - inside[kind], ONE) for kind in COST_KINDS]
    return CostTable(terms, table.widths)


def _layer(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else "(other operations)"


def _tensor_terms(network: nn.Module, names: tuple[str, ...], kept: Count) -> list[CostTerm]:
    parameters = dict(network.named_parameters())  # of a tensor with several names one, as costs are measured
    tensors = {**parameters, **dict(network.named_buffers())}
    terms = []
    for name in names:
        if name in tensors:
            layer, tensor = name.rpartition(".")[0] or name, tensors[name]
            terms.append(CostTerm("size", layer, tensor.numel() * tensor.element_size(), kept))
            if name in parameters:
                terms.append(CostTerm("params", layer, tensor.numel(), kept))
    return terms


def _flops_by_node(traced: fx.GraphModule, inputs: torch.Tensor) -> Mapping[fx.Node, int]:
    """Operation to its floating-point operations for one sample."""
    runner = _Counting(traced)
    with mode(traced, training=False), torch.no_grad(), runner.counter:
        runner.run(inputs[:1])
    return runner.flops


class _Counting(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.counter = FlopCounterMode(display=False)
        self.flops: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = int(self.counter.get_total_flops())
        value = super().run_node(n)
        self.flops[n] = int(self.counter.get_total_flops()) - before
        return value
