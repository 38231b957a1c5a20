"""Residual branches: what a shortcut leads around, so that it can go whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from autoprune.graph.groups import ChannelGraph
from autoprune.graph.operations import name_of
from autoprune.graph.trace import mode

_ADDITIONS = frozenset({"add", "add_", "iadd"})


@dataclass(frozen=True)
class Branch:
    """Everything that serves one operand of an addition alone; without it the sum is its other operand.

    Attributes:
        name: its first layer with a weight, in forward order.
        weights: its layers with weights of two or more dimensions, in forward order.
        layers: its modules that hold parameters or buffers, in forward order.
        through: those of `weights` that everything in the branch passes.
        nodes: its operations, in forward order; the last gives the operand.
        addition: the operation that adds it.
        shortcut: the operand that stays.
    """

    name: str
    weights: tuple[str, ...]
    layers: tuple[str, ...]
    through: tuple[str, ...]
    nodes: tuple[fx.Node, ...]
    addition: fx.Node
    shortcut: fx.Node


def find_branches(network: nn.Module, graph: ChannelGraph) -> tuple[Branch, ...]:
    """The residual branches of a network, in forward order; of nested ones the innermost, so that no two overlap.

    An operand is a branch if what serves it alone has layers with weights, of which none is used elsewhere, and comes
    to zero once all its parameters are zero. Where both operands do (a projection beside a block) it is the one with
    more such layers, the first of equals. An operand that is broadcast, or changed in place, is none.
    """
    traced = graph.followed.traced
    found: list[Branch] = []
    for node in traced.graph.nodes:
        branch = _branch_at(node, graph)
        if branch is not None and not any(set(branch.nodes) & set(other.nodes) for other in found):
            found.append(branch)
    zero = _come_to_zero(network, traced, found, graph.followed.inputs)
    return tuple(branch for branch in found if branch.nodes[-1] in zero)


def _branch_at(node: fx.Node, graph: ChannelGraph) -> Branch | None:
    operands = _operands(node, graph)
    candidates = [
        branch
        for operand, other in zip(operands, reversed(operands), strict=True)
        if (branch := _serving(operand, other, node, graph)) is not None
    ]
    return max(candidates, key=lambda branch: len(branch.weights), default=None)


def _operands(node: fx.Node, graph: ChannelGraph) -> list[fx.Node]:
    """Both operands of an addition of two equally shaped activations; nothing for any other operation."""
    if node.op not in ("call_function", "call_method") or name_of(node) not in _ADDITIONS or node.kwargs:
        return []
    operands = [each for each in node.args if isinstance(each, fx.Node)]
    shapes = [graph.followed.values.get(each) for each in (node, *operands)]
    same = len(node.args) == len(operands) == 2 and operands[0] is not operands[1]
    return operands if same and all(isinstance(s, torch.Size) and s == shapes[0] for s in shapes) else []


def _serving(operand: fx.Node, shortcut: fx.Node, addition: fx.Node, graph: ChannelGraph) -> Branch | None:
    nodes = _exclusive(operand, addition)
    called = [str(node.target) for node in nodes if node.op == "call_module"]
    traced = graph.followed.traced
    weights = [name for name in dict.fromkeys(called) if _weighted(traced.get_submodule(name))]
    if not weights or not _entries(nodes) or shortcut in nodes:
        return None
    if _used_elsewhere(nodes, traced) or any(_in_place(node, traced) for node in nodes if _enters(node, nodes)):
        return None
    layers = [name for name in dict.fromkeys(called) if _holds_state(traced.get_submodule(name))]
    through = [name for name in weights if _all_pass(name, nodes)]
    return Branch(weights[0], tuple(weights), tuple(layers), tuple(through), tuple(nodes), addition, shortcut)


def _exclusive(operand: fx.Node, addition: fx.Node) -> list[fx.Node]:
    """The operations of which every result ends in the operand alone, in forward order."""
    if set(operand.users) != {addition}:
        return []
    members = {operand}
    # Backwards through the graph every user of a node comes before the node itself.
    for node in reversed(operand.graph.nodes):
        if node.op != "placeholder" and node.users and all(user in members for user in node.users):
            members.add(node)
    return [node for node in operand.graph.nodes if node in members and node.op != "placeholder"]


def _entries(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """What the operations use that is none of them."""
    members = set(nodes)
    return [source for node in nodes for source in node.all_input_nodes if source not in members]


def _enters(node: fx.Node, nodes: Sequence[fx.Node]) -> bool:
    return any(source not in nodes for source in node.all_input_nodes)


def _used_elsewhere(nodes: Sequence[fx.Node], traced: fx.GraphModule) -> bool:
    """Whether a module or parameter of these operations is used by another operation too."""
    members = set(nodes)

    def owned(of: Iterable[fx.Node]) -> set[int]:
        return {id(tensor) for node in of for tensor in _tensors(node, traced)}

    return bool(owned(nodes) & owned(node for node in traced.graph.nodes if node not in members))


def _tensors(node: fx.Node, traced: fx.GraphModule) -> list[Tensor]:
    if node.op == "call_module":
        return list(traced.get_submodule(str(node.target)).parameters())
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        value = getattr(traced.get_submodule(path), name)
        return [value] if isinstance(value, Tensor) else []
    return []


def _in_place(node: fx.Node, traced: fx.GraphModule) -> bool:
    """Whether an operation writes into its input, which the shortcut may hold."""
    if node.op == "call_module":
        return bool(getattr(traced.get_submodule(str(node.target)), "inplace", False))
    name = name_of(node)
    return bool(node.kwargs.get("inplace")) or name.endswith("_") or name in ("iadd", "imul", "isub", "itruediv")


def _weighted(module: nn.Module) -> bool:
    return any(name.endswith("weight") and tensor.dim() > 1 for name, tensor in module.named_parameters())


def _holds_state(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _all_pass(layer: str, nodes: Sequence[fx.Node]) -> bool:
    """Whether nothing from outside reaches the last operation except through a layer."""
    reached: Set[fx.Node] = set()
    for node in nodes:
        blocked = node.op == "call_module" and node.target == layer
        if not blocked and any(source not in nodes or source in reached for source in node.all_input_nodes):
            reached = reached | {node}
    return nodes[-1] not in reached


def _come_to_zero(
    network: nn.Module, traced: fx.GraphModule, branches: Sequence[Branch], inputs: Tensor
) -> set[fx.Node]:
    """The last operations of those branches that give zeros when all parameters of all of them are zero."""
    prefixes = tuple(f"{layer}." for branch in branches for layer in branch.layers)
    owned = [parameter for name, parameter in network.named_parameters() if prefixes and name.startswith(prefixes)]
    run = _Ends(traced, {branch.nodes[-1] for branch in branches})
    with mode(traced, training=False), torch.no_grad(), _zeroed(owned):
        run.run(inputs)
    return run.zero


@contextmanager
def _zeroed(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters that are zero for a while."""
    before = [parameter.data for parameter in parameters]
    for parameter in parameters:
        parameter.data = torch.zeros_like(parameter.data)
    try:
        yield
    finally:
        for parameter, values in zip(parameters, before, strict=True):
            parameter.data = values


class _Ends(fx.Interpreter):
    """Notes which of some operations give zeros."""

    def __init__(self, traced: fx.GraphModule, ends: Set[fx.Node]) -> None:
        super().__init__(traced)
        self._ends = ends
        self.zero: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n in self._ends and isinstance(value, Tensor) and bool((value == 0).all()):
            self.zero.add(n)
        return value
