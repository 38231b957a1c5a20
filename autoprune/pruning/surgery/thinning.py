"""Thins networks: removes channels, so that layers are smaller and outputs the same as with the channels masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from autoprune.errors import AutopruneError
from autoprune.graph.capture import mode
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import Layer, channel_axes, named_tensors
from autoprune.graph.rewrite import Call
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.fx_rewrite import RewrittenNetwork, rewrite
from autoprune.pruning.surgery.masks import mask_network

# Largest accepted difference of outputs, relative to their largest value: sums in another order, per precision.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 2e-1,
}


class ThinningError(AutopruneError):
    """The thinned network does not compute what the masked one computes; a fault of autoprune, never shipped."""


def thin(network: nn.Module, graph: ChannelGraph, kept: Kept, check_on: Any = None) -> nn.Module:
    """Builds a copy of the network without the channels that go.

    It is of the network's own class; only where an operation's arguments name a channel count that changes (padding of
    channels, a view with numbers) it is a traced `torch.fx.GraphModule` with the same modules and the same state-dict
    keys. Its control flow is that of evaluation mode, while dropout and batch norm, also functional ones, follow its
    mode where training and evaluation do the same operations.

    Args:
        network: left as it is.
        graph: what `find_groups` found in this network, or in one of the same architecture.
        kept: by group, the channels that stay.
        check_on: inputs (see `ModelInputs.of`) on which it is compared with the masked network; None: it is not.

    Raises:
        UserError: `kept` does not fit the groups, or the network cannot be copied.
        ThinningError: an output differs from the masked network's.
    """
    simulation = graph.simulate(kept)
    if simulation.faults:
        raise ThinningError("; ".join(simulation.faults.values()))
    keep = graph.keep_mask(kept)
    thinned = copy_network(network)
    tensors = named_tensors(thinned)
    for layer in graph.layers:
        for axis in channel_axes(layer, tensors):
            _select_entries(thinned, axis.tensor, axis.dim, keep[axis.ids])
        if layer.kind != "parameter":
            _set_counts(thinned.get_submodule(layer.name), layer, keep)
    if simulation.calls:
        thinned = _rewrite_calls(thinned, graph, simulation.calls)
    if check_on is not None:
        # Only its consumers ignore a channel: one of zeros may become infinite on its way, divided by its variance.
        check_same_outputs(thinned, mask_network(network, graph, kept, sides=("in",)), check_on)
    return thinned


def _select_entries(network: nn.Module, name: str, dim: int, stays: Tensor) -> None:
    """Replaces a tensor by its entries along one axis that stay, unless all of them do."""
    if bool(stays.all()):
        return
    path, _, attribute = name.rpartition(".")
    owner = network.get_submodule(path)
    old: Tensor = getattr(owner, attribute)
    new = old.detach().index_select(dim, stays.nonzero().flatten().to(old.device)).contiguous()
    is_parameter = isinstance(old, nn.Parameter)
    setattr(owner, attribute, nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new)


def _set_counts(module: nn.Module, layer: Layer, keep: Tensor) -> None:
    """Writes the numbers of channels that stay into the attributes in which a layer states them."""
    outgoing = int(keep[layer.outgoing].sum())
    if layer.incoming is None:
        setattr(module, "num_parameters" if isinstance(module, nn.PReLU) else "num_features", outgoing)
        return
    incoming = int(keep[layer.incoming].sum())
    names = ("in_features", "out_features") if layer.kind == "linear" else ("in_channels", "out_channels")
    for name, count in zip(names, (incoming, outgoing), strict=True):
        setattr(module, name, count)
    if layer.depthwise:
        module.groups = incoming  # type: ignore[assignment]


def _rewrite_calls(network: nn.Module, graph: ChannelGraph, calls: Mapping[fx.Node, Call]) -> RewrittenNetwork:
    def edit(twins: Mapping[fx.Node, fx.Node]) -> None:
        for node, (target, args, kwargs) in calls.items():
            twin = twins[node]
            if target is not node.target:
                twin.op = "call_function"
            twin.target = target
            twin.args = fx.node.map_arg(args, lambda n: twins[n])
            twin.kwargs = fx.node.map_arg(kwargs, lambda n: twins[n])

    return rewrite(network, graph.flow.traced, edit)


def check_same_outputs(thinned: nn.Module, masked: nn.Module, inputs: Any) -> None:
    """Checks that both networks give the same outputs in evaluation mode.

    Args:
        thinned: the smaller one.
        masked: the one with zeros.
        inputs: whatever they take, see `ModelInputs.of`.

    Raises:
        ThinningError: they do not.
    """
    with mode(thinned, training=False), mode(masked, training=False), torch.no_grad():
        found, expected = (tree_leaves(ModelInputs.of(inputs).clone().call(network)) for network in (thinned, masked))
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            _compare_tensors(one, other)


def _compare_tensors(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise ThinningError(f"the thinned network gives {list(found.shape)}, the masked one {list(expected.shape)}")
    if not expected.is_floating_point() or expected.numel() == 0:
        return
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        raise ThinningError("the thinned network's output is finite elsewhere than the masked one's")
    scale = float(expected[finite].abs().amax().clamp_min(1e-6)) if bool(finite.any()) else 1.0
    difference = float((found - expected)[finite].abs().max()) if bool(finite.any()) else 0.0
    if difference > TOLERANCE.get(expected.dtype, 1e-3) * scale:
        raise ThinningError(
            f"the thinned network's output differs from the masked one's by {difference:.3g} of {scale:.3g}"
        )
