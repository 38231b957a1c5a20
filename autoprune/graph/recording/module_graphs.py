"""One module's part of what was recorded, as a graph of its own: what it calls, and its children as whole modules."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.recording.recordings import ModuleCall, Recording

Path = tuple[Any, ...]
"""Where an argument's tensor or number is: of `(args, kwargs)` the keys and indices that lead to it."""
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""Target, positional and keyword arguments of an operation."""


class NotSeparable(Exception):
    """A module's operations cannot be told apart from those around it."""


@dataclass
class ModuleGraph:
    """What a module does, with its own names.

    Attributes:
        graph: its operations; modules and parameters are named from the module on.
        paths: of its placeholders, in order.
        given: arguments that are neither tensors nor tracked numbers, by path: it was recorded with these.
        constants: tensors that it made out of nothing torch knows of, by name.
        asks_types: whether it asks tensors for their data types, which then follow the network's.
    """

    graph: fx.Graph
    paths: tuple[Path, ...]
    given: Mapping[Path, Any]
    constants: dict[str, Tensor] = field(default_factory=dict)
    asks_types: bool = False


def extract_module(
    recording: Recording, name: str, rewritten: Mapping[fx.Node, Call | fx.Node], removed: Collection[fx.Node] = ()
) -> ModuleGraph:
    """Extracts what a module does from a recording.

    Args:
        recording: of the whole network.
        name: qualified name of a module that is no operation by itself.
        rewritten: operations whose target or arguments change, with the new ones, or the operation in their place.
        removed: operations that are left out; whatever uses them is rewritten. Modules inside this one that lose some
            of theirs are not called any more: what is left of them is done in this one.

    Raises:
        NotSeparable: it takes or returns what is no nest of tensors and plain values, uses tensors of other modules, or
            did different things each time it was called.
    """
    graphs = [
        _Extraction(recording, call, rewritten, removed).run()
        for call in recording.calls
        if call.name == name and not call.with_hooks
    ]
    if not graphs:
        raise NotSeparable(f"{name} is not called")
    if len({str(each.graph) for each in graphs}) > 1:
        raise NotSeparable(f"{name or 'the network'} does different things each time it is called")
    return graphs[0]


class _Extraction:
    """Copies the operations of one call of a module."""

    def __init__(
        self,
        recording: Recording,
        call: ModuleCall,
        rewritten: Mapping[fx.Node, Call | fx.Node],
        removed: Collection[fx.Node],
    ) -> None:
        self._recording, self._call, self._rewritten = recording, call, rewritten
        self._nodes = list(recording.graph.nodes)
        self._removed = set(removed)
        for node in self._nodes if removed else ():  # what nothing uses goes with what it was computed from
            if not node.users and self._removed & set(node.all_input_nodes) and node not in rewritten:
                self._removed.add(node)
        self._at = {node: i for i, node in enumerate(self._nodes)}
        self._graph = fx.Graph()
        self._twins: dict[fx.Node, fx.Node] = {}
        self._constants: dict[str, Tensor] = {}
        self._opaque: dict[type, fx.Node] = {}  # what was recorded of them are copies, so the type tells which it is
        self._prefix = f"{call.name}." if call.name else ""

    def run(self) -> ModuleGraph:
        """Returns the module's graph."""
        call = self._call
        paths: list[Path] = []
        given: dict[Path, Any] = {}
        for path, value in _leaves((call.args, call.kwargs)):
            if isinstance(value, fx.Node):
                if value not in self._twins:
                    self._twins[value] = self._graph.placeholder(f"argument_{len(paths)}")
                    paths.append(path)
            elif value is None or isinstance(value, (bool, int, float, str)):
                given[path] = value
            elif not _is_plain(value):  # a cache, say, that is passed on as it is
                if type(value) in self._opaque:
                    raise NotSeparable(f"{call.name} takes several of {type(value).__name__}")
                self._opaque[type(value)] = self._graph.placeholder(f"argument_{len(paths)}")
                paths.append(path)
        children = self._children()
        i = call.start
        while i < call.stop:
            child = next((each for each in children if each.start <= i < each.stop), None)
            if child is not None:
                if not self._is_removed(child):
                    self._copy_child(child)
                i = child.stop
                continue
            node = self._nodes[i]
            if (
                node not in self._removed
                and node.op in ("call_function", "call_method", "call_module")
                and self._is_operation(node)
            ):
                self._copy(node)
            i += 1
        self._graph.output(self._map(call.result))
        self._graph.lint()
        asks_types = call.name in self._recording.asking_types
        return ModuleGraph(self._graph, tuple(paths), given, self._constants, asks_types)

    def _children(self) -> list[ModuleCall]:
        """Lists the outermost calls within this one that did something."""
        outer: list[ModuleCall] = []
        for each in self._recording.calls:  # in the order in which they ended: what lies around others comes later
            if each is self._call:
                break
            if self._call.start <= each.start < each.stop <= self._call.stop and not self._is_broken(each):
                outer = [other for other in outer if not each.start <= other.start < other.stop <= each.stop]
                outer.append(each)
        return outer

    def _is_broken(self, child: ModuleCall) -> bool:
        """Tells whether a call lost some of its operations, or uses the result of one that is gone."""
        inside = self._nodes[child.start : child.stop]
        touched = any(node in self._removed or self._removed & set(node.all_input_nodes) for node in inside)
        return touched and not self._is_removed(child)

    def _is_removed(self, child: ModuleCall) -> bool:
        inside = [node for node in self._nodes[child.start : child.stop] if self._is_operation(node)]
        return bool(inside) and all(node in self._removed for node in inside)

    def _is_operation(self, node: fx.Node) -> bool:
        return isinstance(self._recording.values.get(node), (list, torch.Size))

    def _copy_child(self, child: ModuleCall) -> None:
        if not child.name.startswith(self._prefix):
            raise NotSeparable(f"{self._call.name} calls {child.name}, which lies elsewhere")
        args, kwargs = self._map(child.args), self._map(child.kwargs)
        called = self._graph.call_module(child.name.removeprefix(self._prefix), args, kwargs)
        for path, value in _leaves(child.result):
            if isinstance(value, fx.Node) and value not in self._twins:
                part = called
                for key in path:
                    part = self._graph.call_function(_take, (part, key))
                self._twins[value] = part
            elif not isinstance(value, fx.Node) and not _is_plain(value) and type(value) not in self._opaque:
                raise NotSeparable(f"{child.name} returns a {type(value).__name__}")

    def _copy(self, node: fx.Node) -> fx.Node:
        if isinstance(instead := self._rewritten.get(node), fx.Node):
            self._twins[node] = self._twin(instead)
            return self._twins[node]
        target, args, kwargs = instead or (node.target, node.args, dict(node.kwargs))
        op = node.op if target is node.target else "call_function"
        if op == "call_module":
            if not str(target).startswith(self._prefix):
                raise NotSeparable(f"{self._call.name} calls {target}, which lies elsewhere")
            target = str(target).removeprefix(self._prefix)
        twin = self._graph.create_node(op, target, self._map(args), self._map(kwargs))
        self._twins[node] = twin
        return twin

    def _map(self, value: Any) -> Any:
        return fx.node.map_arg(self._with_placeholders(value), self._twin)

    def _with_placeholders(self, value: Any) -> Any:
        """Returns arguments with what was passed in as it is replaced by the arguments that it comes by."""
        if not self._opaque:
            return value
        if isinstance(value, dict) and type(value) not in self._opaque:
            return {key: self._with_placeholders(each) for key, each in value.items()}
        if isinstance(value, list):
            return list(map(self._with_placeholders, value))
        if type(value) is tuple:
            return tuple(map(self._with_placeholders, value))
        return self._opaque.get(type(value), value)

    def _twin(self, node: fx.Node) -> fx.Node:
        if node in self._twins:
            return self._twins[node]
        if node.graph is self._graph:
            return node
        if node.op == "get_attr":
            name = str(node.target)
            if name.startswith("_constant_"):
                self._constants[name] = getattr(self._recording.traced, name)
                relative = name
            elif name.startswith(self._prefix):
                relative = name.removeprefix(self._prefix)
            else:
                raise NotSeparable(f"{self._call.name} uses {name}, which lies elsewhere")
            self._twins[node] = self._graph.get_attr(relative)
            return self._twins[node]
        number = not self._is_operation(node)
        if node.op in ("call_function", "call_method") and (number or self._is_part(node)):
            return self._copy(node)
        raise NotSeparable(f"{self._call.name or 'the network'} uses what {node.name} made elsewhere")

    def _is_part(self, node: fx.Node) -> bool:
        """Tells whether a node takes an entry of a result, which is recorded where it is first used."""
        return node.target is operator.getitem and isinstance(node.args[1], int) and node.args[0] in self._twins


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _leaves(each, (*path, key))
    elif isinstance(value, (tuple, list)):
        for index, each in enumerate(value):
            yield from _leaves(each, (*path, index))
    else:
        yield path, value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str)) or type(value).__module__ == "torch"


def _take(value: Any, key: Any) -> Any:
    """Returns an entry of a module's result by index or key."""
    return value[key]
