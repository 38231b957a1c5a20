"""What share of a network's costs lies with the layers that make some channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod

from torch import Tensor, nn

from autoprune.graph.channel_ids import Reason
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.overview.frozen import unnumbered

Owner = str | Reason
"""Who decides on channels: a group, by its name, or the reason why they stay."""

UNFOLLOWED = Reason("what is no layer that is followed")
"""Owner of what is neither a followed layer's nor grows with any group."""


def costs_by_owner(network: nn.Module, graph: ChannelGraph) -> dict[str, Counter[Owner]]:
    """Divides FLOPs and parameters by who decides on the channels that they make.

    A layer's are divided by its output channels, so that all parts add up to the whole: half of a convolution's FLOPs
    belong to the group that half of its outputs are in. What its inputs could save of them is not asked. Products of
    activations belong to the first group that they grow with.

    Args:
        network: the dense one.
        graph: of this network.

    Returns:
        `flops` and `params`, by owner; what is left of the network's FLOPs is nobody's.
    """
    owners = _Owners(graph)
    layers = {layer.name: layer.outgoing for layer in graph.layers}
    flops: Counter[Owner] = Counter()
    for products in graph.flow.products.values():
        for product in products:
            work = product.factor * prod(ids.numel() for ids in product.ids)
            made = layers.get(product.layer)
            if made is not None:
                flops.update(owners.divide(made, work))
            else:
                flops[next(owners.groups(product.ids), UNFOLLOWED)] += work
    params: Counter[Owner] = Counter()
    made_by = {axis.tensor: axis.ids for axis in graph.axes if axis.side == "passthrough"}
    made_by |= {axis.tensor: axis.ids for axis in graph.axes if axis.side == "out"}
    for name, parameter in network.named_parameters():
        if name in made_by:
            params.update(owners.divide(made_by[name], parameter.numel()))
        else:
            params[UNFOLLOWED] += parameter.numel()
    return {"flops": flops, "params": params}


class _Owners:
    def __init__(self, graph: ChannelGraph) -> None:
        self._roots = graph.roots
        frozen = graph.flow.channels.reasons()
        first: dict[tuple[str, str], Reason] = {}
        self._by_root: dict[int, Owner] = {
            root: first.setdefault((unnumbered(reason.text), reason.line), reason) for root, reason in frozen.items()
        }
        self._by_root |= {root: group.name for group in graph.groups for root in group.roots.tolist()}

    def divide(self, ids: Tensor, cost: int) -> dict[Owner, int]:
        """Divides a cost among the owners of `[…]` ids."""
        found = Counter(self._by_root.get(root, UNFOLLOWED) for root in self._roots[ids].flatten().tolist())
        return {owner: cost * count // ids.numel() for owner, count in found.items()}

    def groups(self, arrays: tuple[Tensor, ...]) -> Iterator[Owner]:
        """Yields the groups that any of `[…]` ids belong to."""
        for ids in arrays:
            for root in self._roots[ids].flatten().tolist():
                owner = self._by_root.get(root)
                if isinstance(owner, str):
                    yield owner
