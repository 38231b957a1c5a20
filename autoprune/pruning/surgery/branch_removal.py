"""Removes whole residual branches: each addition becomes its shortcut, and the branch's layers are gone.

Source: the depth-wise part of structured sparsity learning (Wen et al. 2016, arXiv:1608.03665), where group lasso over
whole layers leaves some at zero and the shortcut carries on. There the network is masked; here the layers are removed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from autoprune.errors import AutopruneError, TaskError
from autoprune.graph.branches import Branch, choose_branches, find_branches
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.recording.module_graphs import Call, ModuleGraph, NotSeparable, extract_module
from autoprune.graph.recording.recordings import Recording
from autoprune.graph.recording.running import mode
from autoprune.pruning.surgery.checking import check_same_outputs, compare_runs, run_thinned
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masked_run import run_masked
from autoprune.pruning.surgery.masks import Masks, masked_copy
from autoprune.pruning.surgery.written_forward import write_forward


def remove_branches(network: nn.Module, graph: ChannelGraph, names: Collection[str], check_on: Any = None) -> nn.Module:
    """Builds a copy of the network without some branches and the modules and tensors that served them alone.

    What stays keeps its name. The smallest modules around the additions get a forward without the branch, see
    `written_forward`. It can be trained, searched for groups, thinned, and lose more branches. A group whose first
    layer went has another name in it; what served several branches stays, even where all of them go.

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
    removed = without_branches(copy_network(network), graph, branches)
    if check_on is not None:
        check_same_outputs(removed, masked_copy(network, branch_masks(network, branches)), check_on)
    return removed


def without_branches(
    network: nn.Module, graph: ChannelGraph, branches: Sequence[Branch], kept: Kept | None = None
) -> nn.Module:
    """Returns the network without some branches, which it loses in place.

    Args:
        network: that in which the graph was found, or what `thin` made of it.
        graph: the one in which the branches were found.
        branches: to be removed.
        kept: by group, the channels that stayed when it was thinned.

    Raises:
        TaskError: the forward of a module that adds one cannot be written anew.
    """
    if branches:
        _delete(network, graph.flow.run.recording, branches)
        _bypass(network, graph, branches, graph.simulate(kept).calls if kept else {})
    return network


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

    weights = {layer.name: layer.weight_name for layer in graph.layers}

    def is_dead(layer: str) -> bool:
        return layer in weights and not bool(network.get_parameter(weights[layer]).any())

    return tuple(branch.name for branch in find_branches(network, graph) if any(map(is_dead, branch.necessary)))


def _bypass(network: nn.Module, graph: ChannelGraph, branches: Sequence[Branch], calls: Mapping[fx.Node, Call]) -> None:
    """Puts each shortcut in its addition's place, in the forward of the module that adds them.

    Args:
        network: in place.
        graph: the one in which the branches were found.
        branches: to be removed.
        calls: operations that are called otherwise, as channels went.

    Raises:
        TaskError: that module's forward cannot be written anew.
    """
    for name, parts in _written_anew(graph, branches, calls).items():
        write_forward(network.get_submodule(name), parts)


def _written_anew(
    graph: ChannelGraph, branches: Sequence[Branch], calls: Mapping[fx.Node, Call]
) -> dict[str, dict[bool, ModuleGraph]]:
    """Returns what the modules around branches do without these, in each mode.

    Raises:
        TaskError: a module's forward cannot be written anew.
    """
    by_module: dict[str, list[Branch]] = {}
    first = graph.flow.run.recording
    for branch in branches:
        by_module.setdefault(scope_of(branch, first), []).append(branch)
    written: dict[str, dict[bool, ModuleGraph]] = {}
    for name, found in by_module.items():
        for run in graph.flow.runs:
            if not run.recording.does_the_same(first):
                continue
            twins = dict(zip(first.graph.nodes, run.recording.graph.nodes, strict=True))
            rewritten = {twins[branch.addition]: _shortcut(branch, twins) for branch in found}
            removed = {twins[node] for branch in found for node in branch.nodes}
            try:
                changed = {**calls, **rewritten}
                part = extract_module(run.recording, name, changed, removed)
            except NotSeparable as reason:
                raise TaskError(f"branch {found[0].name} cannot be removed: {reason}") from reason
            written.setdefault(name, {})[run.recording.training] = part
    return written


def scope_of(branch: Branch, recording: Recording) -> str:
    """Returns the name of the smallest module in whose calls a branch and its addition lie."""
    places = {node: place for place, node in enumerate(recording.graph.nodes)}
    inside = [places[node] for node in (*branch.nodes, branch.addition) if node in recording.sites]
    around = [call for call in recording.calls if call.start <= min(inside) and max(inside) < call.stop]
    return min(around, key=lambda call: call.stop - call.start).name


def explain_failures(network: nn.Module, graph: ChannelGraph, branches: Sequence[Branch]) -> dict[str, str]:
    """Removes branches on trial: every other one, the others, and all; where that fails each by itself.

    Returns:
        Name of each that cannot be removed to the reason; it may be that the code around it asks for its layers.
    """
    found: dict[str, str | None] = {}
    for branch in branches:
        try:
            _written_anew(graph, [branch], {})
        except TaskError as fault:
            found[branch.name] = str(fault)
    left = [branch for branch in branches if branch.name not in found]
    if any(_failure(network, graph, some) for some in (left[::2], left[1::2], left) if some):
        found |= {branch.name: _failure(network, graph, [branch]) for branch in left}
    return {name: reason for name, reason in found.items() if reason is not None}


def check_without_branches(
    smaller: nn.Module, network: nn.Module, graph: ChannelGraph, branches: Sequence[Branch], kept: Kept, inputs: Any
) -> None:
    """Checks in evaluation mode that a network without branches and channels gives the masked one's outputs.

    Outputs of zeros, which a removed attention would leave in a cache, are not compared.

    Args:
        smaller: the network without them.
        network: the dense one.
        graph: of the dense one.
        branches: that were removed.
        kept: by group, the channels that stay.
        inputs: whatever they take, see `ModelInputs.of`.

    Raises:
        ThinningError: it does not.
    """
    given, masked = ModelInputs.of(inputs), masked_copy(network, branch_masks(network, branches))
    with mode(smaller, training=False), mode(masked, training=False):
        compare_runs(
            lambda: _something(run_thinned(smaller, given)), lambda: _something(run_masked(masked, graph, kept, given))
        )


def _something(output: Any) -> list[Any]:
    return [leaf for leaf in tree_leaves(output) if _is_something(leaf)]


def _is_something(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and bool(leaf.any())


def _failure(network: nn.Module, graph: ChannelGraph, branches: Sequence[Branch]) -> str | None:
    try:
        without = without_branches(copy_network(network), graph, branches)
        check_without_branches(without, network, graph, branches, {}, graph.flow.inputs)
    except Exception as fault:  # whatever the user's code raises without its layers
        return f"{fault}" if isinstance(fault, AutopruneError) else f"without it: {type(fault).__name__}: {fault}"
    return None


def _shortcut(branch: Branch, twins: Mapping[fx.Node, fx.Node]) -> Call | fx.Node:
    """Returns what takes an addition's place; a copy of the shortcut, where something writes into the sum."""
    (shortcut,) = (node for node in branch.addition.all_input_nodes if node is not branch.nodes[-1])
    return (torch.clone, (twins[shortcut],), {}) if branch.copied else twins[shortcut]


def _delete(network: nn.Module, recording: Recording, branches: Sequence[Branch]) -> None:
    """Deletes the modules and tensors that only the branches use, and modules that are empty without them."""
    nodes = {node for branch in branches for node in branch.nodes}
    served = _called(network, nodes)
    still = _called(network, set(recording.graph.nodes) - nodes)
    still |= {network.get_submodule(scope_of(branch, recording)) for branch in branches}
    gone, emptied = served - still, set()
    for name in {name for branch in branches for name in branch.tensors}:
        path, _, key = name.rpartition(".")
        owner = network.get_submodule(path)
        if owner not in gone:
            delattr(owner, key)
            emptied.add(owner)
    gone |= {module for module in network.modules() if _is_hollow(module, gone | emptied, gone, still)}
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in gone:
                delattr(module, name)


def _called(network: nn.Module, nodes: Collection[fx.Node]) -> set[nn.Module]:
    """Returns the modules that operations call, with those inside them."""
    names = {str(node.target) for node in nodes if node.op == "call_module"}
    found = {name: module for name, module in network.named_modules(remove_duplicate=False) if name in names}
    return {inner for module in found.values() for inner in module.modules()}


def _is_hollow(module: nn.Module, lost: set[nn.Module], gone: set[nn.Module], still: set[nn.Module]) -> bool:
    """Tells whether a module lost something and holds neither tensors nor anything that is called any more."""
    inside = set(module.modules())
    rest = inside - gone
    held = (tensor for each in rest for tensor in (*each._parameters.values(), *each._buffers.values()))
    return bool(inside & lost) and not rest & still and all(tensor is None for tensor in held)
