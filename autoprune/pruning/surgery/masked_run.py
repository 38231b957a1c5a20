"""Runs the dense network with channels masked: what uses them ignores them, and norms are over those that stay."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.hooks import RemovableHandle

from autoprune.graph.channel_ids import axes_of
from autoprune.graph.channels import FollowedRun
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.recording.replay import Replay
from autoprune.graph.rules.base import Activation, name_of
from autoprune.graph.rules.elementwise import STATISTICS, reduced_axes
from autoprune.graph.rules.table import PRODUCTS
from autoprune.pruning.surgery.masks import mask_network

log = logging.getLogger(__name__)

_NORMS = frozenset("layer_norm rms_norm group_norm normalize".split())


def run_masked(
    network: nn.Module, graph: ChannelGraph, kept: Kept, inputs: ModelInputs, followed: FollowedRun | None = None
) -> Any:
    """Returns the outputs of the dense network without the channels that go.

    Args:
        network: the dense one, in the mode in which it is to run; left as it is.
        graph: of this network.
        kept: by group, the channels that stay.
        inputs: whatever it takes.
        followed: what it does; None is what it did at first in evaluation mode.
    """
    masked = mask_network(network, graph, kept, sides=("in",))
    return MaskedRun(masked, followed or graph.flow.run, graph.keep_mask(kept)).run(*inputs.clone().tensors())


def masked_network(network: nn.Module, graph: ChannelGraph, kept: Kept) -> nn.Module:
    """Returns a copy of the dense network that computes what `run_masked` does, with gradients; shapes stay.

    It repeats what was recorded, so it is for inputs with which the network does the same. Hooks are not copied: what
    they do was recorded with all else.

    Args:
        network: the dense one; left as it is.
        graph: of this network.
        kept: by group, the channels that stay.
    """
    masked = mask_network(network, graph, kept, sides=("in",))
    for module in masked.modules():
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    keep = graph.keep_mask(kept)

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = ModelInputs(args, kwargs)
        return _HookedRun(masked, graph.flow.run, keep).run(*given.tensors())

    masked.__dict__["forward"] = forward
    return masked


class MaskedRun(Replay):
    """Runs what was recorded with norms and statistics over the channels that stay.

    Args:
        network: with masked weights.
        flow: what the dense network did.
        keep: `[ids]` whether each id stays.
    """

    def __init__(self, network: nn.Module, flow: FollowedRun, keep: Tensor) -> None:
        super().__init__(network, flow.recording.traced)
        self._flow, self._keep = flow, keep

    def compute(self, n: fx.Node) -> Any:
        """Returns the value of one operation."""
        if n.op in ("call_function", "call_method") and name_of(n) in PRODUCTS:
            return self._run_product(n)
        source, stays = self.kept_rows(n)
        if source is None or not stays:
            return super().compute(n)
        if n.op != "call_module" and name_of(n) in STATISTICS:
            value = _select(self.env[source], stays)
            args, kwargs = fx.node.map_arg(
                (n.args, dict(n.kwargs)), lambda each: value if each is source else self.env[each]
            )
            return getattr(self, n.op)(n.target, args, kwargs)
        return self.norm(n, self.env[source], stays)

    def kept_rows(self, n: fx.Node) -> tuple[fx.Node | None, dict[int, Tensor]]:
        """Returns what a norm or a statistic over channels is taken of, and which entries of its axes stay.

        Returns:
            The operation whose value it is taken of, and axis to `[size]` booleans, for the axes that lose some; none
            where the operation takes no statistics over channels that go.
        """
        normed = self._normed(n)
        source = next((each for each in n.all_input_nodes if each in self._flow.activations), None)
        dense = self._flow.activations.get(source) if source is not None else None
        if not normed or not isinstance(dense, Activation):
            return source, {}
        return source, {axis: rows for axis in normed(dense) if not bool((rows := self._rows(dense, axis)).all())}

    def norm(self, n: fx.Node, value: Tensor, stays: dict[int, Tensor]) -> Tensor:
        """Normalises over the channels that stay; those that go are zero.

        Args:
            n: a norm.
            value: `[…]` what it is given.
            stays: of `kept_rows`.
        """
        return self._spread(self._run_norm(n, _select(value, stays), stays), value, stays)

    def _run_product(self, n: fx.Node) -> Any:
        """Runs a product without the channels that go, which may not be zero in a weight that is computed."""
        before = {each: self.env[each] for each in n.all_input_nodes}
        for each, value in before.items():
            dense = self._flow.activations.get(each)
            if isinstance(dense, Activation) and isinstance(value, Tensor):
                for ids in dense.ids:
                    stays = self._keep[ids].to(value.device)
                    self.env[each] = self.env[each].masked_fill(~stays, 0) if not bool(stays.all()) else self.env[each]
        try:
            return super().compute(n)
        finally:
            self.env.update(before)

    def _rows(self, dense: Activation, axis: int) -> Tensor:
        """Returns which entries of an axis stay, `[size]`; all, where ids vary along other axes too."""
        rows = torch.ones(dense.shape[axis], dtype=torch.bool)
        for ids in dense.along(axis):
            if len(axes_of(ids)) == 1:
                rows &= self._keep[ids].flatten()
        return rows

    def _normed(self, n: fx.Node) -> Any:
        """Returns what tells over which axes of its input an operation takes statistics; None where it takes none."""
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                axes = len(module.normalized_shape)
                return lambda dense: range(len(dense.shape) - axes, len(dense.shape))
            return (lambda dense: [1]) if isinstance(module, nn.GroupNorm) else None
        if n.op not in ("call_function", "call_method"):
            return None
        name = name_of(n)
        if name in STATISTICS:
            values = self._flow.recording.values
            plain = partial(fx.node.map_arg, fn=values.get)
            return lambda dense: (reduced_axes(n, len(dense.shape), plain) or []) if _reduces(n, self._flow) else []
        if name == "group_norm":
            return lambda dense: [1]
        if name == "batch_norm":  # of a weight's outputs over its inputs; along axis 1 nothing is mixed
            return lambda dense: [axis for axis in range(len(dense.shape)) if axis != 1]
        if name in _NORMS:
            return lambda dense: [len(dense.shape) - 1] if name != "normalize" else range(len(dense.shape))
        return None

    def _run_norm(self, n: fx.Node, value: Tensor, stays: dict[int, Tensor]) -> Tensor:
        """Runs a norm on the channels that stay."""
        held: dict[str, Any] = {}
        if n.op == "call_module":
            module: Any = self.fetch_attr(str(n.target))
            weight, bias = module.weight, getattr(module, "bias", None)
            held = {"eps": module.eps}
            groups: Any = getattr(module, "num_groups", None)
            shape: Any = getattr(module, "normalized_shape", None)
            name = {"LayerNorm": "layer_norm", "RMSNorm": "rms_norm"}.get(type(module).__name__, "")
            name = name or (
                "group_norm" if groups else "layer_norm" if isinstance(module, nn.LayerNorm) else "rms_norm"
            )
        else:
            name = name_of(n)
            orders = {
                "layer_norm": "input normalized_shape weight bias eps",
                "rms_norm": "input normalized_shape weight eps",
                "group_norm": "input num_groups weight bias eps",
                "normalize": "input p dim eps",
                "batch_norm": "input running_mean running_var weight bias training momentum eps",
            }
            args, kwargs = fx.node.map_arg((n.args, dict(n.kwargs)), lambda each: self.env[each])
            given: dict[str, Any] = {**dict(zip(orders[name].split(), args, strict=False)), **kwargs}
            if name == "batch_norm":
                return nn.functional.batch_norm(**{**given, "input": value})
            if name == "normalize":
                return nn.functional.normalize(**{**given, "input": value})
            weight, bias, groups = given.get("weight"), given.get("bias"), given.get("num_groups")
            held = {"eps": given["eps"]} if given.get("eps") is not None else {}
            shape = given.get("normalized_shape")
        if name == "group_norm":
            rows = stays[1]
            weight, bias = (each if each is None else each[rows.to(each.device)] for each in (weight, bias))
            per_group = rows.view(int(groups), -1)
            whole = bool((per_group.all(1) | ~per_group.any(1)).all())
            return nn.functional.group_norm(
                value, int(per_group.any(1).sum()) if whole else groups, weight, bias, **held
            )
        axes = 1 if isinstance(shape, int) else len(shape)
        rank = value.dim()
        for axis, rows in stays.items():
            at = axis - (rank - axes)
            weight, bias = (
                each if each is None else each.index_select(at, rows.nonzero().flatten().to(each.device))
                for each in (weight, bias)
            )
        over = tuple(value.shape[rank - axes :])
        if name == "rms_norm":
            return nn.functional.rms_norm(value, over, weight, **held)
        return nn.functional.layer_norm(value, over, weight, bias, **held)

    def _spread(self, value: Tensor, like: Tensor, stays: dict[int, Tensor]) -> Tensor:
        """Puts values back to where they were; the channels that go are zero."""
        for axis, rows in stays.items():
            whole = value.new_zeros([*value.shape[:axis], like.shape[axis], *value.shape[axis + 1 :]])
            value = whole.index_copy(axis, rows.nonzero().flatten().to(value.device), value)
        return value


class NormsOverKept:
    """Makes the norms of a network with masked channels take their statistics over the channels that stay.

    These are the network's layer, RMS and group norms, by hooks on them, while it trains in its dense shape. A norm
    that is written out in a forward sees the masked channels as zeros until the network is thinned; it is named in the
    log.

    Args:
        network: the dense one, of which channels will be masked.
        graph: of this network.
    """

    def __init__(self, network: nn.Module, graph: ChannelGraph) -> None:
        self._network, self._graph = network, graph
        self._handles: list[RemovableHandle] = []
        self._named: set[str] = set()

    def set(self, kept: Kept) -> None:
        """Sets which channels stay, of each group that does not stay whole."""
        self.remove()
        run = MaskedRun(self._network, self._graph.flow.run, self._graph.keep_mask(kept))
        hooked: set[str] = set()
        for n in self._graph.flow.traced.graph.nodes:
            source, stays = run.kept_rows(n)
            if source is None or not stays:
                continue
            if n.op == "call_module" and str(n.target) not in hooked:
                hooked.add(str(n.target))
                norm = self._network.get_submodule(str(n.target))
                self._handles.append(norm.register_forward_hook(_norm_hook(norm, run, n, stays)))
            elif n.op != "call_module" and (owner := self._graph.flow.run.recording.sites[n].scope) not in self._named:
                self._named.add(owner)
                log.warning("%s normalises by hand: while it trains, masked channels are zeros to it", owner or "it")

    def remove(self) -> bool:
        """Lets all norms be as they were; returns whether any was not."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        return bool(handles)


def _norm_hook(norm: nn.Module, run: MaskedRun, n: fx.Node, stays: dict[int, Tensor]) -> Callable[..., Any]:
    def over_kept(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return run.norm(n, args[0], stays) if module is norm and args else None  # copies of the network have it too

    return over_kept


class _HookedRun(MaskedRun):
    """Runs modules with their hooks, which are an observer's."""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.fetch_attr(str(target))(*args, **kwargs)


def _select(value: Tensor, stays: dict[int, Tensor]) -> Tensor:
    for axis, rows in stays.items():
        value = value.index_select(axis, rows.nonzero().flatten().to(value.device))
    return value


def _reduces(n: fx.Node, flow: FollowedRun) -> bool:
    """Tells whether a mean or variance is taken over channels."""
    found = flow.activations.get(n)
    results: Collection[Any] = found if isinstance(found, list) else [found]
    return any(isinstance(each, Activation) and each.statistics for each in results)
