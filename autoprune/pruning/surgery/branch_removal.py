"""Removes whole residual branches: each addition becomes its shortcut, and the branch's layers are gone.

Source: the depth-wise part of structured sparsity learning (Wen et al. 2016, arXiv:1608.03665), where group lasso over
whole layers leaves some at zero and the shortcut carries on. There the network is masked; here the layers are removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from autoprune.graph.branches import Branch, choose_branches, find_branches
from autoprune.graph.groups import ChannelGraph
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.fx_rewrite import rewrite
from autoprune.pruning.surgery.masks import Masks, masked_copy
from autoprune.pruning.surgery.thinning import check_same_outputs


def remove_branches(network: nn.Module, graph: ChannelGraph, names: Collection[str], check_on: Any = None) -> nn.Module:
    """Builds a copy of the network without some branches and the modules and tensors that served them alone.

    What stays keeps its name. As with channels that a view names by number, it is a traced `torch.fx.GraphModule`, with
    the control flow of evaluation mode. It can be trained, searched for groups, thinned, and lose more branches. A
    group whose first layer went has another name in it; what served several branches stays, even where all of them go.

    Args:
        network: left as it is.
        graph: what `find_groups` found in this network, or in the one that it is a copy of.
        names: of branches that `find_branches` finds in it.
        check_on: inputs (see `ModelInputs.of`) on which it is compared with the masked network; None: it is not.

    Raises:
        UserError: there is no such branch, or the network cannot be copied.
        ThinningError: an output differs from the masked network's.
    """
    branches = choose_branches(find_branches(network, graph), names)
    removed = copy_network(network)
    if branches:
        _delete(removed, graph.flow.traced, branches)
        removed = rewrite(removed, graph.flow.traced, lambda twins: _bypass(branches, twins))
    if check_on is not None:
        check_same_outputs(removed, masked_copy(network, branch_masks(network, branches)), check_on)
    return removed


def branch_masks(network: nn.Module, branches: Iterable[Branch]) -> Masks:
    """Builds masks of everything in branches, biases and norms too, with which they add zero to their shortcuts.

    Args:
        network: its parameters' shapes and devices are those of the masks.
        branches: some that `find_branches` finds in it.

    Returns:
        Name of each parameter in the branches to a boolean mask of its shape, e.g. `[out, in, kh, kw]`, false
        throughout.
    """
    parameters = dict(network.named_parameters())  # of a tensor with several names one, which is enough
    held = [name for branch in branches for name in branch.tensors if name in parameters]
    return {name: torch.zeros_like(parameters[name], dtype=torch.bool, requires_grad=False) for name in held}


def dead_branches(network: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
    """Names the branches that pass nothing on: of a layer on all their paths every weight is zero.

    A bias or β behind the dead layer may still add a constant, which is lost with the branch. (Distiller removes a
    layer where the mean magnitude of its weights is at most the strength of its regularisation; here the penalty's
    threshold has masked such a layer before.)

    Args:
        network: the one in which the graph was found.
        graph: what `find_groups` found in it.
    """

    def is_dead(layer: str) -> bool:
        return not bool(network.get_submodule(layer).weight.any())  # type: ignore[operator]

    return tuple(branch.name for branch in find_branches(network, graph) if any(map(is_dead, branch.necessary)))


def _bypass(branches: Sequence[Branch], twins: Mapping[fx.Node, fx.Node]) -> None:
    """Puts each shortcut in its addition's place and erases what serves nothing any more."""
    for branch in branches:
        addition, last = twins[branch.addition], twins[branch.nodes[-1]]
        # Read from the twin: where the shortcut was itself an addition, that may have been replaced already.
        (shortcut,) = (source for source in addition.all_input_nodes if source is not last)
        if branch.copied:
            with addition.graph.inserting_before(addition):
                shortcut = addition.graph.call_method("clone", (shortcut,))
        addition.replace_all_uses_with(shortcut)
        addition.graph.erase_node(addition)
        feeding = {source for node in branch.nodes for source in node.all_input_nodes} - set(branch.nodes)
        for node in reversed(branch.nodes):
            addition.graph.erase_node(twins[node])
        for source in (twins[node] for node in feeding):
            if source.op == "call_module" and not source.args and not source.users:
                addition.graph.erase_node(source)  # the module that answers for the mode serves nothing any more


def _delete(network: nn.Module, traced: fx.GraphModule, branches: Sequence[Branch]) -> None:
    """Deletes the modules and tensors that only the branches use, and modules that are empty without them."""
    nodes = {node for branch in branches for node in branch.nodes}
    served = _called(network, nodes)
    still = _called(network, set(traced.graph.nodes) - nodes)
    gone = served - still
    for name in {name for branch in branches for name in branch.tensors}:
        path, _, key = name.rpartition(".")
        owner = network.get_submodule(path)
        if owner not in gone:
            delattr(owner, key)
    gone |= {module for module in network.modules() if _is_hollow(module, gone, still)}
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in gone:
                delattr(module, name)


def _called(network: nn.Module, nodes: Collection[fx.Node]) -> set[nn.Module]:
    """Returns the modules that operations call, with those inside them."""
    names = {str(node.target) for node in nodes if node.op == "call_module"}
    found = {name: module for name, module in network.named_modules(remove_duplicate=False) if name in names}
    return {inner for module in found.values() for inner in module.modules()}


def _is_hollow(module: nn.Module, gone: set[nn.Module], still: set[nn.Module]) -> bool:
    """Tells whether a module lost something and holds neither tensors nor anything that is called any more."""
    inside = set(module.modules())
    rest = inside - gone
    held = (tensor for each in rest for tensor in (*each._parameters.values(), *each._buffers.values()))
    return bool(inside & gone) and not rest & still and all(tensor is None for tensor in held)
