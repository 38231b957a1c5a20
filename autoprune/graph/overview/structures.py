"""What the structures of a group are: heads, hidden units, a residual stream, or plain channels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import Tensor, fx

from autoprune.graph.channel_ids import axes_of
from autoprune.graph.groups import ChannelGraph, ChannelGroup
from autoprune.graph.rules.base import activations_in, name_of

_ATTENTION = frozenset(("softmax", "Softmax", "scaled_dot_product_attention"))
_RECURRENT = frozenset("LSTM GRU RNN LSTMCell GRUCell RNNCell".split())


def structure_names(graph: ChannelGraph) -> dict[str, str]:
    """Returns by group what its structures are called, in the plural."""
    heads = set(_roots(graph, _ATTENTION, rank=-3))
    added = Counter(_roots(graph, frozenset(("add", "iadd", "add_"))))
    return {group.name: _name(group, heads, added) for group in graph.groups}


def _name(group: ChannelGroup, heads: set[int], added: Counter[int]) -> str:
    roots = group.roots.tolist()
    types = set(group.group.types)
    kinds = {kind.removeprefix("Prunable") for kind in types}
    if kinds & _RECURRENT and not group.group.coupled:
        return "hidden units"
    several = any(member.side == "out" and member.rows.size(1) > 1 for member in group.members)
    if several and heads >= set(roots):
        return "heads"
    if group.group.coupled and added[roots[0]] > 0:
        return "stream"
    if kinds & _RECURRENT:
        return "hidden units"
    dense = all("Conv" not in kind for kind in types)
    return "hidden units" if dense and not several and not kinds & {"Embedding"} else "channels"


def _roots(graph: ChannelGraph, names: frozenset[str], rank: int | None = None) -> Iterator[int]:
    """Yields the roots of all channels along one axis, or along any, of the results of some operations, each once."""
    for run in graph.flow.runs[:1]:
        for node, found in run.activations.items():
            if not _is_called(node, names, graph):
                continue
            seen: set[int] = set()
            for each in activations_in(found):
                for ids in each.ids:
                    rooted = graph.roots[ids]
                    if rank is None or _varies_along(rooted, ids.dim() + rank):
                        seen.update(rooted.flatten().tolist())
            yield from seen


def _varies_along(rooted: Tensor, axis: int) -> bool:
    """Tells whether `[…]` ids vary along one axis alone."""
    varying = [dim for dim in axes_of(rooted) if bool((rooted != rooted.narrow(dim, 0, 1)).any())]
    return varying == [axis]


def _is_called(node: fx.Node, names: frozenset[str], graph: ChannelGraph) -> bool:
    if node.op == "call_module":
        return type(graph.flow.traced.get_submodule(str(node.target))).__name__ in names
    return node.op in ("call_function", "call_method") and name_of(node) in names
