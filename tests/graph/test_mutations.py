"""Rules that are broken on purpose: the masked reference, which is written apart, notices each.

The networks are the matrix's own ones. What the right rules give is right; what a broken one gives is another set of
groups, a network that does not run, another output than the masked one's, or costs that are not the counted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.channel_ids import ChannelIds, first_along
from autoprune.graph.rules import base, channel_layers, contractions, recurrent, shapes
from autoprune.graph.rules.base import Activation, Channels, Operation
from autoprune.graph.rules.table import RULES
from tests.zoo.examination import TOLERANCE, Row, examine
from tests.zoo.networks import NETWORKS
from tests.zoo.networks.entry import ZooNetwork


class WeighedByMean(nn.Module):
    """Uses a mean over channels for something else than a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.free, self.two = nn.Linear(8, 12), nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.two(F.relu(self.free(x * x.mean(-1, keepdim=True))))


class GroupedQueries(nn.Module):
    """Six heads of queries share two of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(24, width) for width in (24, 8, 8, 24))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).unflatten(-1, (-1, 4)).transpose(1, 2) for each in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


OWN = {
    "mean": ZooNetwork("mean", WeighedByMean, lambda samples, rng: torch.randn(samples, 5, 8, generator=rng)),
    "grouped": ZooNetwork("grouped", GroupedQueries, lambda samples, rng: torch.randn(samples, 5, 24, generator=rng)),
    **{name.removeprefix("own/"): network for name, network in NETWORKS.items() if name.startswith("own/")},
}
Break = Callable[[pytest.MonkeyPatch], None]


def _sums_tie_nothing(patch: pytest.MonkeyPatch) -> None:
    """Where activations are added, only the first one's channels are followed."""

    def merge(self: Channels, shape: torch.Size, operands: Sequence[Activation], what: str) -> tuple[Tensor, ...]:
        rank = len(shape)
        arrays = [ids.reshape([1] * (rank - ids.dim()) + list(ids.shape)) for each in operands for ids in each.ids]
        found: list[Tensor] = []
        for ids in map(self.ids.rooted, arrays):
            if not any(base.overlap(ids, own) for own in found):
                found.append(ids)
        return tuple(found)

    patch.setattr(Channels, "merge", merge)


def _inputs_of_weights_are_not_tied(patch: pytest.MonkeyPatch) -> None:
    def tie_summed(op: Operation, factors: Any, arrays: Any, output: Any) -> dict[Any, Tensor]:
        return {}

    patch.setattr(contractions, "_tie_summed", tie_summed)


def _linear_layers_take_the_wrong_axis(patch: pytest.MonkeyPatch) -> None:
    right = contractions.apply_linear

    def turned(op: Operation, given: Any, source: Any, node: Any, weight: Activation, bias: Any) -> Activation:
        ids = tuple(each.transpose(0, 1) for each in weight.ids) if weight.shape[0] == weight.shape[1] else weight.ids
        return right(op, given, source, node, replace(weight, ids=ids), bias)

    patch.setattr(contractions, "apply_linear", turned)


def _norms_leave_their_weights_alone(patch: pytest.MonkeyPatch) -> None:
    right = channel_layers.layer_norm
    patch.setattr(channel_layers, "layer_norm", lambda op, source, axes, vectors: right(op, source, axes, []))


def _gates_are_not_tied(patch: pytest.MonkeyPatch) -> None:
    right = recurrent.tie_units

    def first_gate_alone(channels: Channels, axes: Any, *rest: Any) -> Any:
        cut = [
            replace(axis, entries=axis.entries[:, :1]) if axis.channels == "hidden" and axis.dim == 0 else axis
            for axis in axes
        ]
        return right(channels, cut, *rest)

    patch.setattr(recurrent, "tie_units", first_gate_alone)


def _cells_tie_no_gates(patch: pytest.MonkeyPatch) -> None:
    right = recurrent.cell

    def cell(op: Operation) -> Any:
        tie = ChannelIds.tie

        def not_of_gates(self: ChannelIds, left: Tensor, other: Tensor) -> None:
            if left.dim() == 1:
                tie(self, left, other)

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(ChannelIds, "tie", not_of_gates)
            return right(op)

    for name in ("lstm_cell", "gru_cell"):
        patch.setitem(RULES, name, cell)  # type: ignore[arg-type]


def _heads_are_not_held_together(patch: pytest.MonkeyPatch) -> None:
    right = Channels.hold

    def hold(self: Channels, ids: Tensor, axes: Any, reason: str) -> Tensor:
        return right(self, ids, axes, reason) if reason else self.ids.rooted(first_along(ids, axes))

    patch.setattr(Channels, "hold", hold)


def _grouped_queries_meet_the_wrong_heads(patch: pytest.MonkeyPatch) -> None:
    def repeated(op: Operation, each: Activation, times: int) -> Activation:
        axis = len(each.shape) - 3
        repeats = [times if at == axis else 1 for at in range(len(each.shape))]
        ids = tuple(ids.repeat(repeats) if ids.size(axis) > 1 else ids for ids in op.channels.rooted(each).ids)
        shape = torch.Size([size * times if at == axis else size for at, size in enumerate(each.shape)])
        return replace(each, shape=shape, ids=ids)

    patch.setattr(contractions, "_repeated_heads", repeated)


def _concatenation_turns_the_order(patch: pytest.MonkeyPatch) -> None:
    right = shapes._joined
    patch.setattr(shapes, "_joined", lambda op, parts, dim: right(op, parts[::-1], dim))


def _group_norms_are_no_norms_of_groups(patch: pytest.MonkeyPatch) -> None:
    right = channel_layers.group_norm
    patch.setattr(channel_layers, "group_norm", lambda op, source, groups, vectors: right(op, source, 1, vectors))


def _statistics_are_free_to_use(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channels, "use_statistics", lambda *_: None)
    patch.setattr(Channels, "take_statistic", lambda self, ids: self.statistics.append(base.Statistic(ids[:0])) or 0)


def _embeddings_are_tied_to_nothing(patch: pytest.MonkeyPatch) -> None:
    right = channel_layers.embedding

    def new(op: Operation, weight: Activation) -> Any:
        found = right(op, weight)
        fresh = op.channels.new(op.shape[-1])
        return None if found is None else op.result([shapes.lay_along(fresh, len(op.shape), -1)])

    patch.setattr(channel_layers, "embedding", new)


def _a_convolution_costs_what_it_costs_dense(patch: pytest.MonkeyPatch) -> None:
    right = channel_layers._products

    def dense(op: Operation, factor: int, shape: torch.Size, *rest: Any) -> base.Product:
        found = right(op, factor, shape, *rest)
        for ids in found.ids[1:]:
            found = replace(found, factor=found.factor * len(ids.flatten()), ids=found.ids[:1])
        return found

    patch.setattr(channel_layers, "_products", dense)


BROKEN: dict[Break, str] = {
    _sums_tie_nothing: "weight-standardised",
    _inputs_of_weights_are_not_tied: "mixer",
    _linear_layers_take_the_wrong_axis: "nn.TransformerEncoder",
    _norms_leave_their_weights_alone: "mixer",
    _gates_are_not_tied: "LSTM language model",
    _cells_tie_no_gates: "cells in a loop",
    _heads_are_not_held_together: "nn.TransformerEncoder",
    _concatenation_turns_the_order: "U-Net",
    _group_norms_are_no_norms_of_groups: "diffusion U-Net",
    _grouped_queries_meet_the_wrong_heads: "grouped",
    _statistics_are_free_to_use: "mean",
    _embeddings_are_tied_to_nothing: "LSTM language model",
    _a_convolution_costs_what_it_costs_dense: "U-Net",
}


def _examined(name: str) -> Row:
    return examine(OWN[name], allocations=2)


def _is_right(row: Row) -> bool:
    return row.failure is None and row.difference is not None and row.difference <= TOLERANCE and row.costs is None


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__.strip("_"))
def test_a_broken_rule_is_noticed(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _is_right(_examined(BROKEN[broken]))
    broken(monkeypatch)
    row = _examined(BROKEN[broken])
    print(f"{row.failure or ''} difference {row.difference} costs {row.costs} groups {row.groups}")
    assert not _is_right(row)
