"""Removes residual branches whole: the addition becomes the shortcut, and the branch's layers are gone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, fx, nn

from autoprune.core.costs import COST_KINDS, CostTable, CostTerm, Count
from autoprune.errors import UserError, did_you_mean
from autoprune.graph.branches import Branch
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.profile import measure_costs
from autoprune.graph.trace import TrainingMode
from autoprune.pruning.copying import copy_network
from autoprune.pruning.masks import Masks, masked_copy
from autoprune.pruning.rewritten import RewrittenNetwork
from autoprune.pruning.thinning import compare

Magnitude = Literal["mean", "max"]


def remove_branches(
    network: nn.Module,
    graph: ChannelGraph,
    branches: Sequence[Branch],
    names: Collection[str],
    check_on: Tensor | None = None,
) -> nn.Module:
    """A copy of the network without some of its branches: a traced one that has the other modules, under their names.

    Source: Wen et al. 2016 (structured sparsity learning), arXiv:1608.03665, where layers go through their shortcut.

    Args:
        names: the branches that go.
        check_on: `[batch, …]` inputs on which it is compared with the network whose branches are masked.

    Raises:
        UserError: a name is of no branch.
        ThinningError: an output differs from the masked network's.
    """
    gone = _named(branches, names)
    if not gone:
        return copy_network(network)
    removed = copy_network(network)
    traced = graph.followed.traced
    new, twins = fx.Graph(), dict[fx.Node, fx.Node]()
    new.output(new.graph_copy(traced.graph, twins))
    for branch in gone:
        _cut(branch, twins)
    for name, module in traced.named_children():
        if isinstance(module, TrainingMode) and not hasattr(removed, name):
            removed.add_module(name, TrainingMode().train(removed.training))
    for layer in {layer for branch in gone for layer in branch.layers}:
        path, _, name = layer.rpartition(".")
        del removed.get_submodule(path)._modules[name]
    new.lint()
    result = RewrittenNetwork(removed, new, class_name=type(network).__name__)
    if check_on is not None:
        compare(result, masked_copy(network, branch_masks(network, gone)), check_on)
    return result


def _named(branches: Sequence[Branch], names: Collection[str]) -> list[Branch]:
    known = {branch.name: branch for branch in branches}
    for name in names:
        if name not in known:
            raise UserError(
                f"no residual branch begins with {name!r}{did_you_mean(name, known)}; see {', '.join(known)}"
            )
    return [branch for branch in branches if branch.name in names]


def _cut(branch: Branch, twins: Mapping[fx.Node, fx.Node]) -> None:
    """Takes a branch out of the copied graph, where the shortcut may itself be what another cut left."""
    addition, members = twins[branch.addition], [twins[node] for node in branch.nodes]
    shortcut = next(node for node in addition.all_input_nodes if node is not members[-1])
    graph = addition.graph
    others = set(shortcut.users) - {addition} - set(members)
    if others:  # what follows the addition may write in place
        with graph.inserting_before(addition):
            shortcut = graph.call_function(torch.clone, (shortcut,))
    addition.replace_all_uses_with(shortcut)
    for node in (addition, *reversed(members)):
        graph.erase_node(node)


def branch_masks(network: nn.Module, branches: Sequence[Branch]) -> Masks:
    """The masks that make branches come to nothing: all their parameters, biases and normalisations too."""
    prefixes = tuple(f"{layer}." for branch in branches for layer in branch.layers)
    return {
        name: torch.zeros_like(parameter, dtype=torch.bool)
        for name, parameter in network.named_parameters()
        if prefixes and name.startswith(prefixes)
    }


def dead_branches(
    network: nn.Module, branches: Sequence[Branch], threshold: float, by: Magnitude = "mean"
) -> tuple[str, ...]:
    """The branches of which a layer that everything passes has a mean (or largest) magnitude of at most a threshold."""

    def magnitude(layer: str) -> float:
        weight = network.get_submodule(layer).get_parameter("weight").detach().abs()
        return float(weight.mean() if by == "mean" else weight.amax())

    return tuple(branch.name for branch in branches if any(magnitude(layer) <= threshold for layer in branch.through))


def branch_costs(network: nn.Module, graph: ChannelGraph, branches: Sequence[Branch], inputs: Tensor) -> CostTable:
    """The costs of every choice of branches, each a group of width 1: measured by removing each by itself."""
    dense = measure_costs(network, inputs)
    fixed = dict(dense)
    terms = []
    for branch in branches:
        without = measure_costs(remove_branches(network, graph, branches, [branch.name]), inputs)
        for kind in COST_KINDS:
            share = dense[kind] - without[kind]
            terms.append(CostTerm(kind, branch.name, share, Count(0, {branch.name: 1})))
            fixed[kind] -= share
    terms += [CostTerm(kind, "(everything else)", fixed[kind]) for kind in COST_KINDS]
    return CostTable(terms, {branch.name: 1 for branch in branches})
