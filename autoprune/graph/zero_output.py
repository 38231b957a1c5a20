"""Whether a branch gives exactly zero once its parameters are zero, found by running it.

What it is fed and what its buffers hold is drawn at random for this, so that the answer is a property of the operations
alone: a batch norm without γ and β is not silent, for its running mean may be anything, nor is a constant or the
branch's input added inside, nor weight norm, which divides zero by zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from autoprune.graph.capture import mode
from autoprune.graph.channels import ChannelFlow


@dataclass
class AdditionInfo:
    """What one run of the network tells of its additions, and of what branches are fed.

    Attributes:
        alike: addition to whether its shortcut has the sum's shape, type and device.
        written: addition to whether something later writes into the sum, where that is not the shortcut itself.
        fed: operation to its result, with random numbers in place of activations.
    """

    alike: dict[fx.Node, bool] = field(default_factory=dict)
    written: dict[fx.Node, bool] = field(default_factory=dict)
    fed: dict[fx.Node, Any] = field(default_factory=dict)


def run_sums(flow: ChannelFlow, shortcuts: Mapping[fx.Node, fx.Node], fed: Collection[fx.Node]) -> AdditionInfo:
    """What is learnt of additions by running the network in evaluation mode.

    Args:
        shortcuts: addition to the operand that would stay in its place.
        fed: the operations of whose results stand-ins are made.
    """
    with mode(flow.traced, training=False), torch.no_grad():
        runner = _SumRunner(flow.traced, shortcuts, fed)
        runner.run(flow.inputs)
    runner.sums.written = {node: total._version != version for node, (total, version) in runner.totals.items()}
    return runner.sums


def outputs_zero(traced: fx.GraphModule, nodes: Sequence[fx.Node], sums: AdditionInfo) -> bool:
    """Whether the last of some operations gives zeros when all their parameters are zero, writing into nothing else."""
    with mode(traced, training=False), torch.no_grad():
        runner = _SilencedRunner(traced)
        sources = {source for node in nodes for source in node.all_input_nodes} - set(nodes)
        runner.env = {source: tree_map(_copied, sums.fed[source]) for source in sources}
        given = [leaf for leaf in tree_leaves(list(runner.env.values())) if isinstance(leaf, Tensor)]
        before = [tensor._version for tensor in given]
        for node in nodes:
            runner.env[node] = runner.run_node(node)
        result = runner.env[nodes[-1]]
    # What is not a number counts as something.
    return not bool(result.any()) and [tensor._version for tensor in given] == before


class _SumRunner(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule, shortcuts: Mapping[fx.Node, fx.Node], fed: Collection[fx.Node]) -> None:
        super().__init__(traced)
        self.sums = AdditionInfo()
        self.totals: dict[fx.Node, tuple[Tensor, int]] = {}
        self._shortcuts, self._fed = shortcuts, fed

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._fed:
            self.sums.fed[n] = tree_map(_stand_in, value)
        if n in self._shortcuts:
            shortcut = self.env[self._shortcuts[n]]
            self.sums.alike[n] = _kind(shortcut) == _kind(value)
            # Added in place, the sum is the shortcut, and whoever writes into one means both.
            total = torch.empty(0) if value is shortcut else value
            self.totals[n] = (total, total._version)
        return value


class _SilencedRunner(fx.Interpreter):
    """Runs operations with every parameter zero and every buffer random."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(str(target))
        held = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
        return functional_call(module, {name: _silenced(tensor) for name, tensor in held}, args, kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = super().get_attr(target, args, kwargs)
        return _silenced(value) if isinstance(value, Tensor) else value


def _silenced(tensor: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return torch.zeros_like(tensor)
    # Above zero, since variances are among them.
    return _drawn(tensor, torch.rand) + 0.5 if tensor.is_floating_point() else tensor


def _stand_in(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return _drawn(value, torch.randn) if floating else _copied(value)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _drawn(like: Tensor, draw: Any) -> Tensor:
    """Random numbers, laid out in memory as a tensor is."""
    generator = torch.Generator().manual_seed(like.numel())
    return torch.empty_like(like).copy_(draw(like.shape, generator=generator))


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device
