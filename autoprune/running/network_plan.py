"""From a network that was followed to the rows of its picture: layers and additions, and which uses which."""

from __future__ import annotations

from collections import Counter
from math import prod

from torch import Tensor, fx

from autoprune.graph.channel_ids import Reason
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import Layer
from autoprune.graph.rules.base import Activation, name_of
from autoprune.reporting.network_figure import NetworkRow
from autoprune.running.setup import Setup

_ADDITIONS = frozenset(("add", "iadd", "add_"))


def plan_network(setup: Setup) -> list[NetworkRow]:
    """Returns the rows of a network's picture, in the order in which it runs."""
    return _Planner(setup).rows()


class _Planner:
    def __init__(self, setup: Setup) -> None:
        self._graph: ChannelGraph = setup.prunable.graph
        self._pinned = setup.space.pinned
        self._group_of = {root: group.name for group in self._graph.groups for root in group.roots.tolist()}
        searched = setup.prunable.structures.groups
        self._structures = {part.name: part.structures for group in searched for part in group.each}
        self._reasons = self._graph.flow.channels.reasons()
        self._layers = {layer.name: layer for layer in self._graph.layers if layer.incoming is not None}
        self._by_tensor = {layer.weight_name: layer for layer in self._layers.values()}
        flops = setup.prunable.costs.dense()["flops"]
        self._work: Counter[str] = Counter()
        for products in self._graph.flow.products.values():
            for each in products:
                self._work[each.layer] += each.factor * prod(ids.numel() for ids in each.ids)
        self._whole = max(flops, 1)
        self._rows: list[NetworkRow] = []
        self._upstream: dict[fx.Node, frozenset[int]] = {}
        self._seen: dict[str, int] = {}

    def rows(self) -> list[NetworkRow]:
        """Returns them."""
        recording = self._graph.flow.run.recording
        for node in recording.graph.nodes:
            sources = frozenset().union(*(self._upstream.get(each, frozenset()) for each in node.all_input_nodes))
            layers = self._layers_at(node)
            if layers:
                for layer in layers:  # of a recurrent layer one after the other
                    sources = frozenset([self._add_layer(layer, sources)])
            elif self._is_addition(node):
                sources = frozenset([self._add(node, sources, recording.sites[node].scope)])
            self._upstream[node] = sources
        return self._rows

    def _layers_at(self, node: fx.Node) -> list[Layer]:
        """Returns the layers that an operation is: a module, or what it does with a parameter."""
        if node.op == "call_module":
            name = str(node.target)
            parts = [layer for key, layer in self._layers.items() if key.startswith(f"{name}.weight_ih")]
            return [self._layers[name]] if name in self._layers else parts
        recording = self._graph.flow.run.recording
        if node.op not in ("call_function", "call_method") or node not in recording.reached:
            return []
        found = []
        for origin in node.all_input_nodes:
            while origin.op != "get_attr" and origin.all_input_nodes and origin not in recording.reached:
                origin = origin.all_input_nodes[0]  # a part of a weight
            found += [each for each in (self._by_tensor.get(recording.parameters.get(origin, "")),) if each]
        return found

    def _add_layer(self, layer: Layer, sources: frozenset[int]) -> int:
        if layer.name in self._seen:  # called again
            return self._seen[layer.name]
        group, reason = self._owner(layer.outgoing)
        assert layer.incoming is not None
        # Products of activations, as of an attention, are listed under the module that holds the layer.
        work = self._work[layer.name] + self._work.pop(layer.name.rpartition(".")[0], 0)
        if "weight_ih" in layer.name:  # the next step's part of a recurrent layer
            work += self._work[layer.name.replace("weight_ih", "weight_hh")]
        sizes = f"{len(layer.incoming)} → {len(layer.outgoing)}"
        self._seen[layer.name] = self._append(layer.name, layer.type, sizes, group, reason, work, sources)
        return self._seen[layer.name]

    def _is_addition(self, node: fx.Node) -> bool:
        if node.op not in ("call_function", "call_method") or name_of(node) not in _ADDITIONS:
            return False
        sides = {self._upstream.get(each, frozenset()) for each in node.all_input_nodes}
        return len(sides) > 1 and all(sides)

    def _add(self, node: fx.Node, sources: frozenset[int], scope: str) -> int:
        found = self._graph.flow.activations.get(node)
        ids = found.ids[0].flatten() if isinstance(found, Activation) and found.ids else None
        group, _ = self._owner(ids) if ids is not None else ("", "")
        return self._append(scope, "", "", group, "", 0, sources)

    def _append(
        self, name: str, kind: str, sizes: str, group: str, reason: str, work: int, sources: frozenset[int]
    ) -> int:
        structures = self._structures.get(group, "")
        self._rows.append(
            NetworkRow(name, kind, sizes, group, structures, reason, work / self._whole, tuple(sorted(sources)))
        )
        return len(self._rows) - 1

    def _owner(self, ids: Tensor) -> tuple[str, str]:
        """Returns the group that most of `[…]` ids are in, or none, and why they are not searched."""
        roots = self._graph.roots[ids].flatten().tolist()
        found = Counter(self._group_of.get(root) for root in roots)
        group = found.most_common(1)[0][0]
        if group is not None:
            return group, self._pinned.get(group, "")
        reason = next((self._reasons[root] for root in roots if root in self._reasons), Reason("not followed"))
        return "", f"{reason.text}{f' ({reason.line})' if reason.line else ''}"
