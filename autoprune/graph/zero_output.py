"""Finds by running it whether a branch outputs exactly zero once its parameters are zero.

Its inputs and buffers are drawn at random for this, so that the answer is a property of the operations alone. A batch
norm without γ and β does not output zero, for its running mean may be anything; nor does a branch that adds a constant
or its own input, nor weight norm, which divides zero by zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.graph.channels import ChannelFlow
from autoprune.graph.recording.running import mode


@dataclass
class AdditionInfo:
    """What one run of the network tells of its additions, and of the inputs of branches.

    Attributes:
        matches: addition to whether its shortcut has the sum's shape, type and device.
        written: addition to whether something later writes into the sum, where that is not the shortcut itself.
        inputs: operation that feeds a branch to its result, with random numbers in place of activations.
    """

    matches: dict[fx.Node, bool] = field(default_factory=dict)
    written: dict[fx.Node, bool] = field(default_factory=dict)
    inputs: dict[fx.Node, Any] = field(default_factory=dict)


def inspect_additions(
    flow: ChannelFlow, shortcuts: Mapping[fx.Node, fx.Node], feeding: Collection[fx.Node]
) -> AdditionInfo:
    """Runs the network in evaluation mode and records what its additions do.

    Args:
        flow: of the network; it runs on the samples that the flow was found with.
        shortcuts: addition to the operand that would stay in its place.
        feeding: the operations whose results branches take in.
    """
    with mode(flow.traced, training=False), torch.no_grad():
        runner = _AdditionRunner(flow.traced, shortcuts, feeding)
        runner.run(*flow.inputs.tensors())
    runner.info.written = {node: total._version != version for node, (total, version) in runner.totals.items()}
    return runner.info


def outputs_zero(traced: fx.GraphModule, nodes: Sequence[fx.Node], info: AdditionInfo) -> bool:
    """Tells whether a branch outputs zero when all its parameters are zero, and writes into none of its inputs.

    Args:
        traced: the network.
        nodes: the branch's operations in forward order; the result of the last is its output.
        info: from a run of the network that recorded the branch's inputs.
    """
    with mode(traced, training=False), torch.no_grad():
        runner = _ZeroedRunner(traced)
        sources = {source for node in nodes for source in node.all_input_nodes} - set(nodes)
        runner.env = {source: tree_map(_copy, info.inputs[source]) for source in sources}
        given = [leaf for leaf in tree_leaves(list(runner.env.values())) if isinstance(leaf, Tensor)]
        before = [tensor._version for tensor in given]
        for node in nodes:
            runner.env[node] = runner.run_node(node)
        result = runner.env[nodes[-1]]
    # NaN is not zero.
    return not bool(result.any()) and [tensor._version for tensor in given] == before


class _AdditionRunner(fx.Interpreter):
    """Runs the network; `totals` holds the result of every addition and the version it had at first."""

    def __init__(
        self, traced: fx.GraphModule, shortcuts: Mapping[fx.Node, fx.Node], feeding: Collection[fx.Node]
    ) -> None:
        super().__init__(traced)
        self.info = AdditionInfo()
        self.totals: dict[fx.Node, tuple[Tensor, int]] = {}
        self._shortcuts, self._feeding = shortcuts, feeding

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._feeding:
            self.info.inputs[n] = tree_map(_random_like, value)
        if n in self._shortcuts:
            shortcut = self.env[self._shortcuts[n]]
            self.info.matches[n] = _kind(shortcut) == _kind(value)
            # Added in place, the sum is the shortcut: a later write is meant for both.
            total = torch.empty(0) if value is shortcut else value
            self.totals[n] = (total, total._version)
        return value


class _ZeroedRunner(fx.Interpreter):
    """Runs operations with every parameter zero and every buffer random."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(str(target))
        held = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        return functional_call(module, {name: _zeroed(tensor) for name, tensor in held}, args, kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().get_attr(target, args, kwargs)
        return _zeroed(value) if isinstance(value, Tensor) else value


def _zeroed(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return torch.zeros_like(tensor)
    # Above zero, since variances are among them.
    return _draw(tensor, torch.rand) + 0.5 if tensor.is_floating_point() else tensor


def _random_like(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return _draw(value, torch.randn) if floating else _copy(value)


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _draw(like: Tensor, distribution: Any) -> Tensor:
    """Draws random numbers, the same ones for each number of entries, laid out in memory as a tensor is."""
    generator = torch.Generator().manual_seed(like.numel())
    return torch.empty_like(like).copy_(distribution(like.shape, generator=generator))


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device
