"""Heads, hidden units and channels of a stream scored as wholes, compared with loops over their rows, named by hand."""

from __future__ import annotations

import copy
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune import registry
from autoprune.graph.groups import find_groups
from autoprune.pruning.criteria.reconstruction import entry_penalties
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.statistics.collection import CalibrationData
from tests.graph.contract import randomise


class Attention(nn.Module):
    """Four heads of queries of two dimensions on two or four of keys and values, a residual stream, an MLP."""

    def __init__(self, kv_heads: int) -> None:
        super().__init__()
        self.kv_heads = kv_heads
        self.embed, self.norm, self.norm2 = nn.Linear(5, 6), nn.LayerNorm(6), nn.LayerNorm(6)
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 2 * kv_heads), nn.Linear(6, 2 * kv_heads)
        self.o, self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.last, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)["outputs"]

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """The outputs, and by layer where what it makes is used first, behind an activation function if one follows."""
        seen = {}
        x = self.embed(x)
        seen["embed"] = y = self.norm(x)
        batch, length = x.shape[:2]
        heads = [layer(y).view(batch, length, -1, 2).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        q, k, v = heads[0], *(each.repeat_interleave(4 // self.kv_heads, 1) for each in heads[1:])
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)
        seen["q"] = seen["k"] = seen["v"] = y
        x = x + self.o(y)
        seen["o"] = self.norm2(x)
        seen["up"] = torch.relu(self.up(seen["o"]))
        seen["down"] = self.last(x + self.down(seen["up"])).mean(1)
        return {**seen, "outputs": self.head(seen["down"])}


class Recurrent(nn.Module):
    """An LSTM of four hidden units and what uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)["outputs"]

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """The outputs, and of the hidden states what the head uses."""
        used = self.cells(x)[0][:, -1]
        return {"cells.weight_ih_l0": used, "cells.weight_hh_l0": used, "outputs": self.head(used)}


class Functional(nn.Module):
    """Layers that are functions of parameters of its own, of both orders of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(4, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x)["outputs"]

    def activations(self, x: Tensor) -> dict[str, Tensor]:
        """The outputs, and what follows each parameter."""
        first = torch.relu(F.linear(x, self.first))
        second = torch.relu(first @ self.second)
        return {"first": first, "second": second, "outputs": self.head(second.mean(1))}


Rows = Mapping[str, Sequence[Sequence[int]]]
"""Layer to the rows of its weight that each structure holds."""


@dataclass(frozen=True)
class Case:
    """A group: its rows, the entries of its layers' activations, and the layers that use it, each with its columns."""

    build: Callable[[], Any]
    group: str
    rows: Rows
    seen: Rows
    users: Rows
    turned: tuple[str, ...] = ()


def _all(layers: str, rows: list[list[int]]) -> Rows:
    return dict.fromkeys(layers.split(), rows)


def _each(count: int) -> list[list[int]]:
    return [[i] for i in range(count)]


PAIRS = [[2 * i, 2 * i + 1] for i in range(4)]
HALVES = [[0, 1, 2, 3], [4, 5, 6, 7]]
GATES = [[i, i + 4, i + 8, i + 12] for i in range(4)]
CELLS = "cells.weight_ih_l0 cells.weight_hh_l0"
CASES = {
    "heads": Case(lambda: Attention(4), "q", _all("q k v", PAIRS), _all("q k v", PAIRS), {"o": PAIRS}),
    "grouped-query heads": Case(
        lambda: Attention(2),
        "q",
        {"q": HALVES, "k": PAIRS[:2], "v": PAIRS[:2]},
        _all("q k v", HALVES),
        {"o": HALVES},
    ),
    "channels of a stream": Case(
        lambda: Attention(2),
        "embed",
        _all("embed o down", _each(6)),
        _all("embed o down", _each(6)),
        _all("q k v up head", _each(6)),
    ),
    "hidden units": Case(Recurrent, "cells", _all(CELLS, GATES), _all(CELLS, _each(4)), {"head": _each(4)}),
    "an own parameter": Case(Functional, "first", {"first": _each(4)}, {"first": _each(4)}, {}),
    "an own parameter, turned": Case(
        Functional, "second", {"second": _each(6)}, {"second": _each(6)}, {"head": _each(6)}, turned=("second",)
    ),
}
MEASURED = sorted(
    name
    for name in registry.CRITERIA
    if not registry.resolve("criterion", name).drawn and name not in ("reconstruction", "bn_scale")
)


def _network(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return randomise(case.build().double()).eval()


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 3, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for size in (4, 4)
    ]


def _scores(name: str, case: Case, batches: Any) -> Any:
    network = _network(case)
    pruner = Pruner("plain", registry.resolve("criterion", name), combine="sum", normalise=False)
    data = CalibrationData(batches, F.cross_entropy)
    return pruner.estimate_importance(network, find_groups(network, batches[0][0][:2]), data)[case.group]


@pytest.mark.parametrize("where", CASES)
@pytest.mark.parametrize("name", MEASURED)
def test_a_criterion_scores_a_structure_by_all_its_rows(name: str, where: str, batches: Any) -> None:
    case = CASES[where]
    network = _network(case)
    expected = [
        sum(_slow(name, network, layer, case, which, batches) for layer in case.rows)
        for which in range(len(next(iter(case.rows.values()))))
    ]
    np.testing.assert_allclose(_scores(name, case, batches), expected, rtol=1e-9)


def _slow(name: str, network: Any, layer: str, case: Case, which: int, batches: Any) -> float:
    """One layer's score of one structure, by loops."""
    held = case.rows[layer]
    weight = _turned(case, layer, _weight(network, layer).detach())
    rows = [[value for row in rows for value in weight[row].tolist()] for rows in held]
    own = rows[which]
    if name in ("apoz", "mean_activation"):
        seen = torch.cat([network.activations(inputs)[layer].flatten(0, -2) for inputs, _ in batches])
        values = seen[:, list(case.seen[layer][which])].flatten().tolist()
        return sum(value != 0 if name == "apoz" else abs(value) for value in values) / len(values)
    if name in ("taylor", "gradient", "saliency", "taylor_gate"):
        return statistics.mean(_by_gradient(name, network, layer, case, which, *batch) for batch in batches)
    return {
        "l1": lambda: sum(map(abs, own)),
        "l2": lambda: math.hypot(*own),
        "magnitude": lambda: sum(map(abs, own)) / len(own),
        "threshold": lambda: max(map(abs, own)),
        "std_threshold": lambda: max(map(abs, own)) / statistics.pstdev(weight.flatten().tolist()),
        "fpgm": lambda: sum(math.dist(own, other) for other in rows),
    }[name]()


def _by_gradient(
    name: str, network: nn.Module, layer: str, case: Case, which: int, inputs: Tensor, targets: Tensor
) -> float:
    twin = copy.deepcopy(network)
    F.cross_entropy(twin(inputs), targets).backward()
    weight = _weight(twin, layer)
    weights, gradients = (_turned(case, layer, each).tolist() for each in (weight.detach(), weight.grad))
    pairs = {row: list(zip(weights[row], gradients[row], strict=True)) for row in case.rows[layer][which]}
    if name == "taylor_gate":
        bias = dict(twin.named_parameters()).get(_bias(layer))
        shifts = {row: 0.0 if bias is None else float(bias.detach()[row] * bias.grad[row]) for row in pairs}
        return sum((sum(w * g for w, g in pairs[row]) + shifts[row]) ** 2 for row in pairs)
    terms = {"taylor": lambda w, g: (w * g) ** 2, "gradient": lambda w, g: abs(g), "saliency": lambda w, g: abs(w * g)}
    return sum(terms[name](w, g) for row in pairs.values() for w, g in row)


def _weight(network: nn.Module, layer: str) -> Any:
    names = dict(network.named_parameters())
    return names[layer if layer in names else f"{layer}.weight"]


def _bias(layer: str) -> str:
    return layer.replace("weight", "bias") if "weight" in layer else f"{layer}.bias"


def _turned(case: Case, layer: str, weight: Tensor) -> Tensor:
    return weight.T if layer in case.turned else weight


@pytest.mark.parametrize("where", [name for name, case in CASES.items() if case.users])
def test_reconstruction_goes_by_what_a_structure_gives_the_layers_that_use_it(where: str, batches: Any) -> None:
    case = CASES[where]
    network = _network(case)
    used: dict[str, list[Tensor]] = {name: [] for name in case.users}
    for name in case.users:
        network.get_submodule(name).register_forward_pre_hook(lambda _, given, to=used[name]: to.append(given[0]))
    for inputs, _ in batches:
        network(inputs)
    expected = 0.0
    for name, held in case.users.items():
        weight, rows = _weight(network, name).detach(), torch.cat([each.flatten(0, -2) for each in used[name]])
        parts = torch.stack([(rows[:, list(columns)] @ weight[:, list(columns)].T).flatten() for columns in held])
        expected = expected + entry_penalties((parts @ parts.T).detach().numpy())
    np.testing.assert_allclose(_scores("reconstruction", case, batches), expected, rtol=1e-6)


def test_what_a_criterion_cannot_score_is_named_with_the_reason(batches: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = _scores("bn_scale", CASES["heads"], batches)
    np.testing.assert_allclose(found, _scores("l1", CASES["heads"], batches))
    assert "plain: bn_scale cannot score embed, q, up, as no batch norm follows them; scored by l1" in caplog.text
