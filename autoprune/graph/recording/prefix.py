"""Traced networks run in parts: up to the operation at which two of them begin to differ, and on from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import named_tensors

Values = Mapping[int, Any]
"""Index of an operation in its graph to its value."""


class PartialRunner(fx.Interpreter):
    """Runs a traced network from any operation to a later one, each of its modules in the mode it is in.

    Attributes:
        nodes: the operations in order. To be at index i means that those before i have run, and i has not.
        first: index of the first operation that is no argument of the network.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.nodes = tuple(traced.graph.nodes)
        self.first = next(i for i, node in enumerate(self.nodes) if node.op != "placeholder")
        index = {node: i for i, node in enumerate(self.nodes)}
        self._last_use = [max((index[user] for user in node.users), default=-1) for node in self.nodes]

    def alive(self, at: int) -> tuple[int, ...]:
        """Returns the indices of the operations before `at` whose values are used from there on."""
        return tuple(i for i in range(at) if self._last_use[i] >= at)

    def begin(self, inputs: Any) -> Values:
        """Returns the values at `first` for some inputs (see `ModelInputs.of`)."""
        self.args_iter = iter(ModelInputs.of(inputs).tensors())
        self.env = {}
        return {i: self.run_node(self.nodes[i]) for i in range(self.first)}

    def advance(self, values: Values, start: int, stop: int) -> Values:
        """Computes the values alive at `stop`.

        Args:
            values: those alive at `start`; operations in place may change them.
            start: index of the first operation to run.
            stop: index of the first operation not to run.
        """
        self._run(values, start, stop)
        found = {i: self.env[self.nodes[i]] for i in self.alive(stop)}
        self.env = {}
        return found

    def finish(self, values: Values, start: int) -> Any:
        """Computes the network's output from the values at `start`, which operations in place may change."""
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


def shared_prefix(one: fx.GraphModule, other: fx.GraphModule) -> int:
    """Counts the operations that two traced networks share from the first on: the same calls, with equal tensors."""
    twins: dict[fx.Node, fx.Node] = {}
    for i, (mine, theirs) in enumerate(zip(one.graph.nodes, other.graph.nodes, strict=False)):
        if not _same_call(mine, theirs, twins) or not _same_state(mine, one, other):
            return i
        twins[theirs] = mine
    return min(len(one.graph.nodes), len(other.graph.nodes))


def _same_call(mine: fx.Node, theirs: fx.Node, twins: Mapping[fx.Node, fx.Node]) -> bool:
    if mine.op != theirs.op or (mine.target is not theirs.target and mine.target != theirs.target):
        return False
    args, kwargs = fx.node.map_arg((theirs.args, theirs.kwargs), lambda node: twins[node])
    return bool(mine.args == args and mine.kwargs == kwargs)


def _same_state(node: fx.Node, one: fx.GraphModule, other: fx.GraphModule) -> bool:
    """Tells whether the module or tensor that an operation uses is the same in both networks."""
    if node.op == "call_module":
        mine, theirs = (traced.get_submodule(str(node.target)) for traced in (one, other))
        return mine is theirs or (type(mine) is type(theirs) and _equal(named_tensors(mine), named_tensors(theirs)))
    if node.op == "get_attr":
        held = attrgetter(str(node.target))
        return _equal({"": held(one)}, {"": held(other)})
    return True


def _equal(mine: Mapping[str, object], theirs: Mapping[str, object]) -> bool:
    """Tells whether the same names stand for equal tensors; what is no tensor has to be the same object."""
    return mine.keys() == theirs.keys() and all(_same(mine[name], theirs[name]) for name in mine)


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one is not other:
        return one.dtype == other.dtype and torch.equal(one, other)
    return one is other or (type(one) is type(other) and not isinstance(one, Tensor) and one == other)


def crosses_state(traced: fx.GraphModule, at: int) -> bool:
    """Tells whether a module with buffers, which a call may change, is called both before operation `at` and after."""
    nodes = list(traced.graph.nodes)
    return bool(_buffers(traced, nodes[:at]) & _buffers(traced, nodes[at:]))


def _buffers(traced: fx.GraphModule, nodes: Sequence[fx.Node]) -> set[int]:
    called = [traced.get_submodule(str(node.target)) for node in nodes if node.op == "call_module"]
    return {id(buffer) for module in called for buffer in module.buffers()}
