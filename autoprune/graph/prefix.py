"""Networks run in parts: up to where two of them begin to differ, and on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from autoprune.graph.capture import mode

Values = Mapping[int, Any]
"""Place of an operation in the order of its graph to its value."""


class PartialRunner(fx.Interpreter):
    """Runs a traced network from any place to a later one, each of its modules in the mode it is in.

    Attributes:
        nodes: the operations in order; a place is an index into them and stands for all that comes before it.
        first: the place behind the network's arguments.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.nodes = tuple(traced.graph.nodes)
        self.first = next(i for i, node in enumerate(self.nodes) if node.op != "placeholder")
        places = {node: i for i, node in enumerate(self.nodes)}
        self._last_use = [max((places[user] for user in node.users), default=-1) for node in self.nodes]

    def alive(self, place: int) -> tuple[int, ...]:
        """The operations before a place whose values are used at it or behind it."""
        return tuple(i for i in range(place) if self._last_use[i] >= place)

    def begin(self, inputs: Tensor) -> Values:
        """The values at `first`; arguments of the network other than its inputs have their defaults."""
        self.args_iter = iter((inputs,))
        self.env = {}
        return {i: self.run_node(self.nodes[i]) for i in range(self.first)}

    def advance(self, values: Values, start: int, stop: int) -> Values:
        """The values alive at `stop` from those at `start`, which operations in place may change."""
        self._run(values, start, stop)
        found = {i: self.env[self.nodes[i]] for i in self.alive(stop)}
        self.env = {}
        return found

    def finish(self, values: Values, start: int) -> Any:
        """The network's output from the values at `start`, which operations in place may change."""
        self._run(values, start, len(self.nodes))
        found = self.env[self.nodes[-1]]
        self.env = {}
        return found

    def _run(self, values: Values, start: int, stop: int) -> None:
        self.env = {self.nodes[i]: value for i, value in values.items()}
        for node in self.nodes[start:stop]:
            self.env[node] = self.run_node(node)
            for unused in self.user_to_last_uses.get(node, ()):
                del self.env[unused]


@dataclass(frozen=True)
class OperationCosts:
    """What each operation of a traced network costs for one sample.

    Attributes:
        macs_before: `[operations + 1]` multiply-adds of all operations before a place.
        size_bytes: `[operations]` of each operation's value.
    """

    macs_before: tuple[int, ...]
    size_bytes: tuple[int, ...]


def measure_operations(traced: fx.GraphModule, inputs: Tensor) -> OperationCosts:
    """Multiply-adds as `torch.utils.flop_counter` counts them, and the size of what is computed.

    Args:
        inputs: `[batch, …]`; only the first sample is used.
    """
    meter = _Meter(traced)
    with mode(traced, training=False), torch.no_grad(), meter.counter:
        meter.run(inputs[:1].clone())
    return OperationCosts(tuple(accumulate(meter.macs, initial=0)), tuple(meter.size_bytes))


class _Meter(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.counter = FlopCounterMode(display=False)
        self.macs: list[int] = []
        self.size_bytes: list[int] = []

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        value = super().run_node(n)
        self.macs.append((self.counter.get_total_flops() - before) // 2)
        tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        self.size_bytes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return value


def shared_prefix(one: fx.GraphModule, other: fx.GraphModule) -> int:
    """The place up to which two traced networks do the same: operation by operation, with equal tensors."""
    twins: dict[fx.Node, fx.Node] = {}
    pairs = zip(one.graph.nodes, other.graph.nodes, strict=False)
    for place, (mine, theirs) in enumerate(pairs):
        if not _same_call(mine, theirs, twins) or not _same_state(mine, one, other):
            return place
        twins[theirs] = mine
    return min(len(one.graph.nodes), len(other.graph.nodes))


def _same_call(mine: fx.Node, theirs: fx.Node, twins: Mapping[fx.Node, fx.Node]) -> bool:
    if mine.op != theirs.op or (mine.target is not theirs.target and mine.target != theirs.target):
        return False
    args, kwargs = fx.node.map_arg((theirs.args, theirs.kwargs), lambda node: twins[node])
    return bool(mine.args == args and mine.kwargs == kwargs)


def _same_state(node: fx.Node, one: fx.GraphModule, other: fx.GraphModule) -> bool:
    """Whether the module or tensor that an operation uses is the same in both networks."""
    if node.op == "call_module":
        mine, theirs = (traced.get_submodule(str(node.target)) for traced in (one, other))
        return mine is theirs or (type(mine) is type(theirs) and _equal(_tensors(mine), _tensors(theirs)))
    if node.op == "get_attr":
        return _equal({"": _attribute(one, node)}, {"": _attribute(other, node)})
    return True


def _tensors(module: nn.Module) -> dict[str, object]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _attribute(traced: fx.GraphModule, node: fx.Node) -> object:
    path, _, name = str(node.target).rpartition(".")
    return getattr(traced.get_submodule(path), name)


def _equal(mine: Mapping[str, object], theirs: Mapping[str, object]) -> bool:
    """Whether the same names stand for equal tensors; what is no tensor has to be the same object."""
    return mine.keys() == theirs.keys() and all(
        one is other
        or (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and one.dtype == other.dtype
            and torch.equal(one, other)
        )
        for one, other in ((mine[name], theirs[name]) for name in mine)
    )


def crosses_state(traced: fx.GraphModule, place: int) -> bool:
    """Whether a module with buffers, which a call may change, is called both before a place and behind it."""
    nodes = list(traced.graph.nodes)
    before, behind = (_buffers(traced, part) for part in (nodes[:place], nodes[place:]))
    return bool(before & behind)


def _buffers(traced: fx.GraphModule, nodes: Sequence[fx.Node]) -> set[int]:
    called = [traced.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"]
    return {id(buffer) for module in called for buffer in module.buffers()}
