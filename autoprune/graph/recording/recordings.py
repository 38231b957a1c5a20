"""Recordings: what a network did in one run, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx


@dataclass(frozen=True)
class CallSite:
    """Where in the user's network an operation was called.

    Attributes:
        scope: qualified name of the innermost module that was running.
        line: file and line of the user's code.
    """

    scope: str
    line: str


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module that is not an operation by itself.

    Attributes:
        name: qualified name of the module.
        args: with operations in place of tensors and tracked numbers, as `kwargs` and `result`.
        start: number of operations before it.
        stop: number of operations when it ended.
        with_hooks: whether the module's hooks are in it; such a call lies around one without.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    start: int
    stop: int
    with_hooks: bool = False


@dataclass
class Recording:
    """What a network did in one run.

    Attributes:
        graph: its operations; the inputs are the tensors of `ModelInputs.tensors()`.
        traced: runs them again; shares the network's modules and parameters.
        values: operation to its result: of tensors the shape, a `torch.Size`, of shapes a plain tuple, of several
            results a list.
        kept: operation to its result, where that is a tensor of integers or booleans that is not too large.
        sites: operation to where it was called.
        leaving: operations whose values left torch, with the name of the call.
        left: where they did.
        reached: operations whose results depend on the values of the inputs, not on their shapes alone.
        parameters: operation that reads a parameter or buffer to its qualified name.
        modules: names of all modules that ran.
        calls: of modules that are no operations, in the order in which they ended.
        observed: operations that compute plain numbers and truth values with which the user's code went on.
        training: whether the network was in training mode.
        replayable: whether `traced` returns what the network returns; else it returns the tensors in it.
        asking_types: names of modules that ask tensors for their data types.
        outputs: the tensors in what it returned.
        varying: modules in which a plain number was another one in a run that did the same otherwise, and the line.
    """

    graph: fx.Graph
    traced: fx.GraphModule
    values: dict[fx.Node, Any] = field(default_factory=dict)
    kept: dict[fx.Node, Tensor] = field(default_factory=dict)
    sites: dict[fx.Node, CallSite] = field(default_factory=dict)
    leaving: dict[fx.Node, str] = field(default_factory=dict)
    left: dict[fx.Node, CallSite] = field(default_factory=dict)
    reached: set[fx.Node] = field(default_factory=set)
    parameters: dict[fx.Node, str] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    calls: list[ModuleCall] = field(default_factory=list)
    observed: list[fx.Node] = field(default_factory=list)
    training: bool = False
    replayable: bool = True
    asking_types: set[str] = field(default_factory=set)
    outputs: tuple[Tensor, ...] = ()
    varying: dict[str, str] = field(default_factory=dict)

    def does_the_same(self, other: Recording, numbers: bool = False) -> bool:
        """Tells whether another run called the same operations on the same tensors.

        Args:
            other: the other run.
            numbers: whether all other arguments have to be the same too.
        """
        return self.parting(other, numbers) is None

    def parting(self, other: Recording, numbers: bool = False) -> fx.Node | None:
        """Returns the first operation that another run did otherwise; None where it did the same.

        Args:
            other: the other run.
            numbers: whether all other arguments have to be the same too.
        """
        mine: fx.Node | None = None
        twins = dict(zip(self.graph.nodes, other.graph.nodes, strict=False))
        for mine, theirs in twins.items():
            if mine.op != theirs.op or mine.target != theirs.target:
                return mine
            if [twins.get(source) for source in mine.all_input_nodes] != theirs.all_input_nodes:
                return mine
            if numbers and _plain((mine.args, mine.kwargs)) != _plain((theirs.args, theirs.kwargs)):
                return mine
        return mine if len(self.graph.nodes) != len(other.graph.nodes) else None

    def compare_numbers(self, other: Recording) -> None:
        """Notes where plain numbers, such as `len(x)`, differ from those of a run that did the same otherwise."""
        for mine, theirs in zip(self.graph.nodes, other.graph.nodes, strict=True):
            if _plain((mine.args, mine.kwargs)) != _plain((theirs.args, theirs.kwargs)):
                site = self.sites.get(mine, CallSite("", ""))
                scope = self.caller(site.scope) if mine.op == "call_module" else site.scope
                self.varying.setdefault(scope, site.line)
        for call, twin in zip(self.calls, other.calls, strict=False):
            if _plain((call.args, call.kwargs)) != _plain((twin.args, twin.kwargs)):
                self.varying.setdefault(call.name, "")
                self.varying.setdefault(self.caller(call.name), "")

    def caller(self, name: str) -> str:
        """Returns the innermost module around another one that ran itself, as containers do not."""
        while name:
            name = name.rpartition(".")[0]
            if name in self.modules:
                return name
        return ""


def _plain(arguments: Any) -> str:
    return str(fx.node.map_arg(arguments, lambda node: None))
