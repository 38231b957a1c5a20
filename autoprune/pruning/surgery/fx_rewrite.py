"""Rewrites a network's graph of operations; modules, parameters and buffers stay its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from autoprune.graph.capture import TrainingMode


def rewrite(
    network: nn.Module, traced: fx.GraphModule, edit: Callable[[Mapping[fx.Node, fx.Node]], None]
) -> RewrittenNetwork:
    """Builds a network that runs the traced graph after an edit; it takes over the network's modules.

    Args:
        network: owns the modules; it is not to be used any more.
        traced: its twin.
        edit: changes a copy of the graph; it is given the copy's operations by the original's.
    """
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(traced.graph, twins))
    edit(twins)
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    for name, module in traced.named_children():
        if isinstance(module, TrainingMode) and name in called and not hasattr(network, name):
            network.add_module(name, TrainingMode().train(network.training))
    graph.lint()
    return RewrittenNetwork(network, graph, class_name=type(network).__name__)


class RewrittenNetwork(fx.GraphModule):
    """Runs a graph in place of a network's `forward`, and keeps all of the network's modules, parameters and buffers.

    A plain `GraphModule` would drop what the graph does not use, and with it keys of the state dict.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str = "GraphModule") -> None:
        super().__init__(root, graph, class_name)
        _adopt(self, root.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> RewrittenNetwork:
        twin: RewrittenNetwork = super().__deepcopy__(memo)  # type: ignore[assignment]
        _adopt(twin, copy.deepcopy(self.__dict__, memo))
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        build, arguments = super().__reduce__()
        return _rebuild, (build, arguments, {key: self.__dict__[key] for key in _KEPT})


_KEPT = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "training")


def _adopt(network: nn.Module, held: Mapping[str, Any]) -> None:
    """Gives a network all modules and tensors that another's `__dict__` holds; further ones of its own come last."""
    for key in ("_modules", "_parameters", "_buffers"):
        own = network.__dict__[key]
        network.__dict__[key] = {**held[key], **{name: v for name, v in own.items() if name not in held[key]}}
    network._non_persistent_buffers_set = set(held["_non_persistent_buffers_set"])
    network.training = held["training"]


def _rebuild(build: Any, arguments: tuple[Any, ...], held: dict[str, Any]) -> fx.GraphModule:
    network: fx.GraphModule = build(*arguments)
    _adopt(network, held)
    return network
