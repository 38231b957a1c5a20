"""Residual branches: what an addition adds to its shortcut, where it can go whole.

At an addition the operand with an exclusive part of the network (operations whose results serve it alone) with layers
in it is the branch, the other operand the shortcut; where both have one, the one with more layers is the branch, and
the first of equals. Refused is a branch

- whose shortcut is a constant, or has not the shape and type of the sum;
- of which a tensor is used or held elsewhere too;
- which outputs something else than zero when its parameters are zero, or writes into its inputs (see `zero_output`);
- around another branch: of nested ones the inner ones stay, which leaves more to choose from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from autoprune.core.budget import COST_KINDS
from autoprune.core.costs import ONE, CostTable, CostTerm, Count
from autoprune.core.space import Group, GroupKind
from autoprune.errors import UserError, did_you_mean
from autoprune.graph.channel_ids import axes_of
from autoprune.graph.channels import ChannelFlow, layer_of
from autoprune.graph.costs import build_cost_table, measure_costs, measure_operations, tensor_terms
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import CONVOLUTIONS, TRANSPOSED, named_tensors, qualified_name
from autoprune.graph.rules.base import Activation, activations_in, name_of
from autoprune.graph.zero_output import inspect_additions, outputs_zero

Modules = Mapping[str, nn.Module]
"""The network's own modules by all their names; its traced twin replaces those that hold bare parameters."""

_WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)


@dataclass(frozen=True)
class Branch:
    """A part of a network that can go whole: its addition becomes the shortcut.

    Attributes:
        name: the module of the first of `weights`.
        layers: names of all modules in it that hold parameters or buffers, in forward order; empty for the network.
        weights: those of them that are convolutions or linear layers.
        necessary: those of `weights` through which every path from the branch's input to the addition leads.
        tensors: names of the parameters and buffers that it holds.
        nodes: its operations, in forward order, without the addition.
        copied: whether a later operation writes into the sum, which must not reach the shortcut.
    """

    name: str
    layers: tuple[str, ...]
    weights: tuple[str, ...]
    necessary: tuple[str, ...]
    tensors: tuple[str, ...]
    addition: fx.Node
    nodes: tuple[fx.Node, ...]
    copied: bool


@dataclass(frozen=True)
class FoundBranches:
    """The additions of a network.

    Attributes:
        branches: those that can go, alone or together, in forward order; no two share an operation.
        refused: of the others, in forward order, the first weighted layer to the reason why they cannot go.
    """

    branches: tuple[Branch, ...]
    refused: Mapping[str, str]


def find_branches(network: nn.Module, graph: ChannelGraph) -> tuple[Branch, ...]:
    """Finds the branches of a network that can go, alone or together, in forward order; no two share an operation.

    What is found depends on the operations alone, not on the values of weights and inputs.

    Args:
        network: what `graph` was found in, or a copy of it; it is not changed.
        graph: with the traced twin whose additions are looked at.
    """
    return judge_branches(network, graph).branches


def judge_branches(network: nn.Module, graph: ChannelGraph) -> FoundBranches:
    """Finds the branches of a network that can go, as `find_branches`, and why others cannot.

    Args:
        network: what `graph` was found in, or a copy of it; it is not changed.
        graph: with the traced twin whose additions are looked at.
    """
    traced = graph.flow.traced
    modules = dict(network.named_modules(remove_duplicate=False))
    parts = list(_parts(graph.flow, modules))
    feeding = {source for part in parts for source in _sources(part.nodes)}
    additions = inspect_additions(graph.flow, {part.addition: part.shortcut for part in parts}, feeding)
    found: list[Branch] = []
    refused: dict[str, str] = {}
    taken: set[fx.Node] = set()
    for part in parts:  # an addition inside a branch comes before that of the branch
        if taken & set(part.nodes):
            refused[part.weights[0]] = "it holds another branch, which can be removed"
        elif not additions.matches[part.addition]:
            refused[part.weights[0]] = "its shortcut is not of the sum's shape and type"
        elif not _is_self_contained(part, traced.graph, modules):
            refused[part.weights[0]] = "a tensor of it is used elsewhere too"
        elif not outputs_zero(traced, part.nodes, additions):
            refused[part.weights[0]] = "it does more than to add what vanishes with its parameters"
        else:
            found.append(_branch(part, modules, graph.flow, additions.written[part.addition]))
            taken |= set(part.nodes)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for branch in found:  # what lies around a branch may begin with it
        refused.pop(branch.weights[0], None)
    return FoundBranches(tuple(sorted(found, key=lambda branch: order[branch.nodes[0]])), refused)


def choose_branches(branches: Iterable[Branch], names: Iterable[str]) -> tuple[Branch, ...]:
    """Returns the branches of these names, in forward order.

    Raises:
        UserError: there is none of a name.
    """
    by_name = {branch.name: branch for branch in branches}
    wanted = set(names)
    for name in sorted(wanted - set(by_name)):
        known = ", ".join(by_name) or "none"
        raise UserError(
            f"no branch {name!r} can be removed{did_you_mean(name, by_name)}; the network's branches: {known}"
        )
    return tuple(branch for name, branch in by_name.items() if name in wanted)


@dataclass(frozen=True)
class _Part:
    """A branch as the operations show it, before it is known whether it can go."""

    addition: fx.Node
    shortcut: fx.Node
    nodes: tuple[fx.Node, ...]
    weights: tuple[str, ...]


def _parts(flow: ChannelFlow, modules: Modules) -> Iterator[_Part]:
    """Yields one possible branch for each addition that has any, in forward order."""
    reached = flow.run.recording.reached
    functional = {layer.tensor for layer in flow.layers if layer.incoming is not None}
    for node in flow.traced.graph.nodes:
        addends = _addends(node, flow)
        if addends is None:
            continue
        sides = [_part(node, operand, shortcut, modules, functional) for operand, shortcut in (addends, addends[::-1])]
        whole = [side for side in sides if side.weights and side.shortcut in reached and reached & _sources(side.nodes)]
        fitting = [
            side for side in whole if flow.run.recording.values[side.shortcut] == flow.run.recording.values[node]
        ]
        if fitting:
            yield max(fitting, key=lambda side: len(side.weights))  # of equals the first


def _addends(node: fx.Node, flow: ChannelFlow) -> tuple[fx.Node, fx.Node] | None:
    """Returns the two different activations that a node adds, or None where it does anything else."""
    if node.op not in ("call_function", "call_method") or name_of(node) != "add" or len(node.args) > 2:
        return None
    given = {**dict(zip(("input", "other"), node.args, strict=False)), **node.kwargs}
    one, other, alpha = given.pop("input", None), given.pop("other", None), given.pop("alpha", 1)
    if given or alpha != 1 or one is other or not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
        return None
    both = isinstance(flow.activations.get(one), Activation) and isinstance(flow.activations.get(other), Activation)
    return (one, other) if both else None


def _part(
    addition: fx.Node, operand: fx.Node, shortcut: fx.Node, modules: Modules, functional: Collection[str]
) -> _Part:
    nodes = _exclusive_nodes(operand, addition)
    weights: dict[str, None] = {}  # a layer called twice is named once
    for node in nodes:
        weights |= dict.fromkeys(n for n, module in _modules([node], modules) if isinstance(module, _WEIGHTED))
        if node.op == "get_attr" and str(node.target) in functional:
            weights[layer_of(str(node.target))] = None
    return _Part(addition, shortcut, nodes, tuple(weights))


def _serving_the_output(graph: fx.Graph) -> set[fx.Node]:
    """Returns the operations whose results the network's output is computed from."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or live & set(node.users):
            live.add(node)
    return live


def _exclusive_nodes(operand: fx.Node, addition: fx.Node) -> tuple[fx.Node, ...]:
    """Lists the operations whose results serve one operand of an addition and nothing else, in forward order."""
    inside: list[fx.Node] = []
    serving = {addition}
    live = _serving_the_output(addition.graph)
    node = operand
    while node.op not in ("root", "placeholder"):
        # An operation without users (a size that was asked for) serves the operand no more than anything else.
        users = {user for user in node.users if user in live}
        if users and users <= (serving if node is operand else serving - {addition}):
            inside.append(node)
            serving.add(node)
        node = node.prev
    return tuple(reversed(inside))


def _sources(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Returns the operations outside whose results these operations take in."""
    return {source for node in nodes for source in node.all_input_nodes} - set(nodes)


def _modules(nodes: Iterable[fx.Node], modules: Modules) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules that operations call, each with those within it, by name."""
    for node in nodes:
        # The twin's module that answers for the mode is none of the network's.
        if node.op == "call_module" and node.target in modules:
            for name, module in modules[str(node.target)].named_modules():
                yield qualified_name(str(node.target), name), module


Slot = tuple[int, str]
"""A module, by identity, and the name under which it holds a tensor."""


def _slots_used(nodes: Iterable[fx.Node], modules: Modules) -> dict[Slot, str]:
    """Maps the tensors that operations use to their qualified names, in forward order."""
    found: dict[Slot, str] = {}
    for node in nodes:
        if node.op == "get_attr":
            path, _, key = str(node.target).rpartition(".")
            if key in modules[path]._parameters or key in modules[path]._buffers:
                found.setdefault((id(modules[path]), key), str(node.target))
        for name, module in _modules([node], modules):
            for key, _ in _own_tensors(module):
                found.setdefault((id(module), key), qualified_name(name, key))
    return found


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Lists the parameters and buffers that a module itself holds."""
    held = (*module._parameters.items(), *module._buffers.items())
    return [(key, tensor) for key, tensor in held if tensor is not None]


def _is_self_contained(part: _Part, graph: fx.Graph, modules: Modules) -> bool:
    """Tells whether nothing outside the branch uses or holds any of its tensors."""
    own = _slots_used(part.nodes, modules).keys()
    inside = set(part.nodes)
    if own & _slots_used((node for node in graph.nodes if node not in inside), modules).keys():
        return False
    holders: dict[int, set[Slot]] = {}
    for module in modules.values():
        for key, tensor in _own_tensors(module):
            holders.setdefault(id(tensor), set()).add((id(module), key))
    return all(found <= own for found in holders.values() if found & own)


def _branch(part: _Part, modules: Modules, flow: ChannelFlow, copied: bool) -> Branch:
    registered = {qualified_name(name, key) for name, module in modules.items() for key, _ in _own_tensors(module)}
    used = _slots_used(part.nodes, modules).values()
    tensors = tuple(name for name in used if name in registered)
    return Branch(
        name=next((each.module for each in flow.layers if each.name == part.weights[0]), "") or part.weights[0],
        layers=tuple(dict.fromkeys(name.rpartition(".")[0] for name in tensors)),
        weights=part.weights,
        necessary=tuple(name for name in part.weights if _is_necessary(name, part, flow)),
        tensors=tensors,
        addition=part.addition,
        nodes=part.nodes,
        copied=copied,
    )


def _is_necessary(layer: str, part: _Part, flow: ChannelFlow) -> bool:
    """Tells whether every path of activations leads through a layer; unknown for layers inside modules kept whole."""
    calls = {node for node in part.nodes if node.op == "call_module" and node.target == layer}
    read = [node for node in part.nodes if node.op == "get_attr" and layer_of(str(node.target)) == layer]
    calls |= {user for node in read for user in node.users if user in flow.activations}
    inside, waiting, seen = set(part.nodes), [part.nodes[-1]], set(calls)
    reached = flow.run.recording.reached
    while waiting:
        node = waiting.pop()
        if node in seen or node not in flow.activations:
            continue
        if node not in inside and node in reached:
            return False
        seen.add(node)
        waiting += node.all_input_nodes if node in inside else []
    return bool(calls)


def inner_groups(branch: Branch, graph: ChannelGraph) -> tuple[Group, ...]:
    """Returns the groups of channels that are made and used inside a branch alone, in forward order."""
    return _groups_within({*branch.layers, *branch.tensors}, graph)


def _groups_within(held: Collection[str], graph: ChannelGraph) -> tuple[Group, ...]:
    """Returns the groups of which only modules and tensors of these names make or use channels, in forward order."""
    held = set(held)
    inside = {layer.name for layer in graph.layers if {layer.name, layer.weight_name} & held}
    return tuple(each.group for each in graph.groups if all(member.layer in inside for member in each.members))


def find_kinds(network: nn.Module, graph: ChannelGraph) -> dict[str, GroupKind]:
    """Finds what the groups of channels are, by name; those that are nothing of the kind are absent.

    Heads each have a product of two activations of their own, as of queries and keys. The stream is what a residual
    branch adds to, whether or not it could go. What is made and used inside one branch alone is hidden, unless it is
    a part of such a product, as the channels of a head are.

    Args:
        network: what `graph` was found in, or a copy of it; it is not changed.
        graph: with the operations that are looked at.
    """
    flow, modules = graph.flow, dict(network.named_modules(remove_duplicate=False))
    reached = flow.run.recording.reached

    def roots_in(node: fx.Node, last: int | None = None) -> set[int]:
        """Returns the roots of the channels along the axes of a value but for the last ones."""
        roots: set[int] = set()
        for each in activations_in(flow.activations.get(node)):
            axes = set(range(len(each.shape))[:last])
            along = [found for ids in each.ids if axes.issuperset(axes_of(found := graph.roots[ids]))]
            roots |= {root for found in along for root in found.flatten().tolist()}
        return roots

    products = [node for node in flow.products if len(reached & {*node.all_input_nodes}) > 1]
    factors = {root for node in products for source in node.all_input_nodes for root in roots_in(source)}
    heads = {root for node in products for root in roots_in(node, -2)}  # the last two axes are those of matrices
    stream: set[int] = set()
    hidden: set[str] = set()
    for part in _parts(flow, modules):
        stream |= roots_in(part.addition)
        held = {name for name, _ in _modules(part.nodes, modules)} | {*_slots_used(part.nodes, modules).values()}
        hidden |= {group.name for group in _groups_within(held, graph)}
    kinds: dict[str, GroupKind] = {}
    for group in graph.groups:
        root = int(group.roots[0])
        if root in heads:
            kinds[group.name] = "heads"
        elif root in stream:
            kinds[group.name] = "stream"
        elif group.name in hidden and root not in factors:
            kinds[group.name] = "hidden"
    return kinds


def build_depth_costs(
    network: nn.Module, graph: ChannelGraph, branches: Mapping[str, Branch], leads: Mapping[str, str], inputs: Any
) -> CostTable:
    """Builds the exact costs of the network thinned to any widths and without any of its branches.

    Args:
        network: the dense one.
        graph: what `find_groups` found in this network.
        branches: the lead of each, at whose width 0 it is removed, to the branch; no two share an operation. A lead
            that is no group of channels has width 1.
        leads: the other groups in them to their leads.
        inputs: whatever it takes, see `ModelInputs.of`; only the first sample is used.
    """
    table = build_cost_table(network, graph, inputs)
    sources = {name: lead for lead, branch in branches.items() for name in branch.tensors}
    sources |= {node.name: lead for lead, branch in branches.items() for node in branch.nodes}
    terms = [replace(term, branch=sources.get(term.source)) for term in table.terms]
    widths = {**table.widths, **{lead: 1 for lead in branches if lead not in table.widths}}
    traced = graph.flow.traced
    flops = dict(zip(traced.graph.nodes, measure_operations(traced, inputs).flops, strict=True))
    for lead, branch in branches.items():
        known = sum(term.at(widths) for term in terms if term.branch == lead and term.kind == "flops")
        rest = sum(flops[node] for node in branch.nodes) - known
        if rest:  # of operations that no term is of
            terms.append(CostTerm("flops", "(other operations)", rest, branch=lead))
            terms.append(CostTerm("flops", "(other operations)", -rest))
    return CostTable(terms, widths, leads=leads)


def build_branch_costs(network: nn.Module, graph: ChannelGraph, branches: Sequence[Branch]) -> CostTable:
    """Builds the exact costs of the network with any of its branches kept (width 1) or removed (width 0).

    FLOPs, parameters and bytes of what is in none of them are constants.

    Args:
        network: with all branches.
        graph: what `find_groups` found in this network.
        branches: of the network, as `find_branches` found them.
    """
    inputs, traced = graph.flow.inputs, graph.flow.traced
    flops = dict(zip(traced.graph.nodes, measure_operations(traced, inputs).flops, strict=True))
    tensors = named_tensors(network)  # of a tensor with several names one, as costs are measured
    terms: list[CostTerm] = []
    for branch in branches:
        kept = Count(0, {branch.name: 1})
        terms += [CostTerm("flops", _layer_name(node), flops[node], kept) for node in branch.nodes if flops[node]]
        for name in branch.tensors:
            if name in tensors:
                terms += tensor_terms(name, tensors[name], tensors[name].numel(), kept)
    table = CostTable(terms, {branch.name: 1 for branch in branches})
    whole, inside = measure_costs(network, inputs), table.dense()
    terms += [CostTerm(kind, "(outside branches)", whole[kind] - inside[kind], ONE) for kind in COST_KINDS]
    return CostTable(terms, table.widths)


def _layer_name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else "(other operations)"
