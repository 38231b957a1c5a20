"""Captures a network as a graph of operations, as far as torch.fx can trace it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from autoprune.errors import TaskError, describe, foreign_code
from autoprune.graph.layers import followed_forward

log = logging.getLogger(__name__)


class TrainingMode(nn.Module):
    """Answers whether the network is in training mode, in a traced graph where `self.training` was an argument."""

    def forward(self) -> bool:
        """Returns whether it is in training mode."""
        return self.training


class _Tracer(fx.Tracer):
    """Traces into the user's modules, but keeps known layers whole, also subclasses that do not change `forward`.

    Attributes:
        opaque: names of modules kept whole because their inside cannot be traced.
        inside: names of the modules being traced, outermost first.
    """

    def __init__(self, opaque: frozenset[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.inside: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = module_qualified_name in self.opaque or followed_forward(m)
        return whole or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.inside.append(self.path_of_module(m))
        result = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return result


def trace(network: nn.Module) -> fx.GraphModule:
    """Traces a network into a twin in evaluation mode that shares the network's modules.

    Arguments that differ in training mode (`F.dropout(…, training=self.training)`) follow the twin's mode. A module
    whose inside cannot be traced (its flow depends on data) is kept whole, innermost first; what reaches it cannot be
    pruned.

    Raises:
        TaskError: the network's own `forward` cannot be traced.
    """
    with mode(network, training=False):
        graph, opaque = _trace(network)
    root = nn.Module()
    root.__dict__.update(network.__dict__)  # shares modules and parameters, so that one may be added
    if _has_switches(graph):
        _follow_mode(graph, network, root, opaque)
    for node in graph.nodes:
        node.type = None  # annotations that are text cannot be saved
    return fx.GraphModule(root, graph, class_name=type(network).__name__)


@contextmanager
def mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Puts the network and all its modules into one mode for a while, and each back into its own afterwards."""
    before = {module: module.training for module in network.modules()}
    for module in before:
        module.training = training
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


def _trace(network: nn.Module) -> tuple[fx.Graph, frozenset[str]]:
    """Returns the graph and the names of the modules that are kept whole.

    Raises:
        TaskError: the network's own `forward` cannot be traced.
    """
    opaque: frozenset[str] = frozenset()
    while True:
        tracer = _Tracer(opaque)
        try:
            with foreign_code(), _traced_functions(tracer):
                return tracer.trace(network, concrete_args=_defaults(network)), opaque
        except Exception as fault:  # whatever the user's forward raises when it meets a proxy
            if not tracer.inside or tracer.inside[-1] in opaque:
                raise TaskError(
                    f"{type(network).__name__}.forward cannot be traced by torch.fx ({describe(fault)}); "
                    "move the part whose flow depends on data into a submodule, which is then left as it is"
                ) from fault
            log.warning("%s is left as it is: its inside cannot be traced (%s)", tracer.inside[-1], fault)
            opaque |= {tracer.inside[-1]}


# Make tensors of sizes that may be computed from an activation's shape; torch.fx does not record their calls by itself.
_FACTORIES = ("arange", "empty", "full", "linspace", "ones", "rand", "randn", "zeros")
# Take a list that may be one proxy, such as what `chunk` returns, which torch 2.8's torch.fx does not record.
_OF_LISTS = ("cat", "concat", "stack")


@contextmanager
def _traced_functions(tracer: fx.Tracer) -> Iterator[None]:
    """Lets `torch.zeros`, `torch.cat` and others be traced whichever argument is computed from the network's input."""

    def traced(plain: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Any:
            found = [value for value in tree_leaves((args, kwargs)) if isinstance(value, fx.Proxy)]
            return tracer.create_proxy("call_function", plain, args, kwargs) if found else plain(*args, **kwargs)

        return make

    plain = {name: getattr(torch, name) for name in (*_FACTORIES, *_OF_LISTS)}
    try:
        for name, function in plain.items():
            setattr(torch, name, traced(function))
        yield
    finally:
        for name, function in plain.items():
            setattr(torch, name, function)


def _defaults(network: nn.Module) -> dict[str, Any] | None:
    """Returns the arguments of `forward` that have a default, with which the network is traced."""
    parameters = inspect.signature(network.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty} or None


def _has_switches(graph: fx.Graph) -> bool:
    """Tells whether an argument may be the training mode: a False that is called so, or a positional one."""
    calls = [node for node in graph.nodes if node.op in ("call_function", "call_method")]
    return any(node.kwargs.get("training") is False or any(value is False for value in node.args) for node in calls)


def _follow_mode(graph: fx.Graph, network: nn.Module, root: nn.Module, opaque: frozenset[str]) -> None:
    """Replaces arguments that are True in training mode and False in evaluation by the mode itself.

    Only where both modes do the same operations; otherwise the graph stays that of evaluation mode.
    """
    try:
        tracer = _Tracer(opaque)
        with foreign_code(), mode(network, training=True), _traced_functions(tracer):
            other = tracer.trace(network, concrete_args=_defaults(network))
    except Exception:  # an auxiliary head, say, that needs what only training gives
        return
    pairs = list(zip(graph.nodes, other.nodes, strict=False))
    if len(graph.nodes) != len(other.nodes) or any(a.op != b.op or a.target != b.target for a, b in pairs):
        log.info("in training mode the network does other operations than in evaluation mode")
        return
    switched = [(node, twin) for node, twin in pairs if _differs_by_mode(node, twin)]
    if not switched:
        return
    name = "training_mode"
    while hasattr(root, name):
        name += "_"
    root._modules = {**root._modules, name: TrainingMode().train(network.training)}
    with graph.inserting_before(next(node for node in graph.nodes if node.op != "placeholder")):
        training = graph.call_module(name)
    for node, twin in switched:
        node.args = tuple(_switch(a, b, training) for a, b in zip(node.args, twin.args, strict=True))
        node.kwargs = {key: _switch(a, twin.kwargs.get(key), training) for key, a in node.kwargs.items()}


def _differs_by_mode(node: fx.Node, twin: fx.Node) -> bool:
    """Tells whether any argument is False in evaluation mode and True in training mode."""
    if len(node.args) != len(twin.args):
        return False
    named = ((value, twin.kwargs.get(key)) for key, value in node.kwargs.items())
    pairs = (*zip(node.args, twin.args, strict=True), *named)
    return any(evaluating is False and training is True for evaluating, training in pairs)


def _switch(evaluating: Any, training: Any, answer: fx.Node) -> Any:
    return answer if evaluating is False and training is True else evaluating
