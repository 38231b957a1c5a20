from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune import registry
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.allocators import GLOBAL
from autoprune.pruning.criteria import distances
from autoprune.pruning.criteria.activations import APOZ, MEAN_ACTIVATION
from autoprune.pruning.criteria.base import Activations, Criterion, Gradients, LayerStatistics
from autoprune.pruning.criteria.controls import BERNOULLI, RANDOM
from autoprune.pruning.criteria.distances import FPGM
from autoprune.pruning.criteria.gradients import GRADIENT, TAYLOR
from autoprune.pruning.patterns import parse_pattern
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.pruning.surgery.masks import Importance, choose_kept
from tests.graph.contract import randomise
from tests.pruning.criteria.slow import STRUCTURES, Batches, Mixed, structure_score
from tests.pruning.slow_patterns import structures

# Not by the layers that make the channels: `reconstruction`, which has its own tests.
MEASURED = sorted(
    name
    for name in registry.CRITERIA
    if not registry.resolve("criterion", name).drawn and "consumers" not in registry.resolve("criterion", name).needs
)


@pytest.fixture(scope="module")
def mixed() -> Mixed:
    torch.manual_seed(0)
    network = randomise(Mixed().double())
    assert isinstance(network, Mixed)
    return network.eval()


@pytest.fixture(scope="module")
def batches() -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(size, 3, 5, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (size,), generator=generator),
        )
        for size in (4, 4, 2)
    ]


@pytest.fixture(scope="module")
def graph(mixed: Mixed) -> ChannelGraph:
    return find_groups(mixed, torch.zeros(2, 3, 5, 5, dtype=torch.float64))


def _scores(
    criterion: Criterion, network: nn.Module, graph: ChannelGraph, batches: Batches, seed: int = 0
) -> Importance:
    pruner = Pruner("plain", criterion, combine="sum", normalise=False)
    return pruner.estimate_importance(network, graph, CalibrationData(batches, F.cross_entropy), seed)


@pytest.mark.parametrize("name", MEASURED)
def test_every_criterion_equals_a_slow_loop_over_filters(
    name: str, mixed: Mixed, graph: ChannelGraph, batches: Batches
) -> None:
    scores = _scores(registry.resolve("criterion", name), mixed, graph, batches)
    assert set(scores) == set(STRUCTURES)
    for group, held in STRUCTURES.items():
        expected = []
        for which, structure in enumerate(held):
            by_layer = {layer: [channels[layer] for channels in held] for layer in structure}
            found = [structure_score(name, mixed, layer, rows, which, batches) for layer, rows in by_layer.items()]
            if None in found:  # no batch norm follows: scored by L1
                found = [structure_score("l1", mixed, layer, rows, which, batches) for layer, rows in by_layer.items()]
            expected.append(sum(score for score in found if score is not None))
        np.testing.assert_allclose(scores[group], expected, rtol=1e-9, err_msg=group)


def test_distinct_criteria_keep_distinct_channels() -> None:
    """Ranked over two layers: within one layer a mean orders equally large filters as a sum does."""
    torch.manual_seed(3)
    network = nn.Sequential(
        *(nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.ReLU()),
        *(nn.Conv2d(40, 30, 1), nn.BatchNorm2d(30), nn.ReLU(), nn.Conv2d(30, 4, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    randomise(network)
    weight = network[0].weight
    with torch.no_grad():
        weight.mul_(torch.linspace(-0.7, 0.7, 40)[torch.randperm(40)].exp().view(-1, 1, 1, 1))  # of several sizes,
        weight[::2, 1:].zero_()  # every other one made of few large weights,
        weight[::2].mul_(3**0.5)
        weight[::3] += 0.1  # and some alike
    batches = [(torch.randn(8, 3, 6, 6), torch.randint(4, (8,))) for _ in range(3)]
    graph = find_groups(network, batches[0][0][:2])
    kept = {}
    for name in registry.CRITERIA:
        scores = _scores(registry.resolve("criterion", name), network, graph, batches)
        kept[name] = choose_kept(scores, GLOBAL.widths([group.group for group in graph.groups], scores, 0.5))
    same = [pair for pair in combinations(kept, 2) if kept[pair[0]] == kept[pair[1]]]
    assert not same


def _values(criterion: Criterion, statistics: LayerStatistics) -> list[float]:
    scores = criterion.score(statistics)
    assert scores is not None
    return list(scores.tolist())


def test_formulas_by_hand() -> None:
    assert _values(FPGM, LayerStatistics("x", torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))) == [5, 10, 5]
    weight = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    gradients = Gradients(torch.tensor([[1.0, 3.0], [2.0, 5.0]]), torch.tensor([[1.0, 10.0], [8.0, 30.0]]))
    assert _values(TAYLOR, LayerStatistics("x", weight, gradients=gradients)) == [41, 2]
    assert _values(GRADIENT, LayerStatistics("x", weight, gradients=gradients)) == [4, 7]
    seen = LayerStatistics("x", weight, activations=Activations(torch.tensor([0.25, 1.0]), torch.tensor([7.0, 2.0])))
    assert _values(APOZ, seen) == [0.25, 1]
    assert _values(MEAN_ACTIVATION, seen) == [7, 2]


def test_equal_filters_are_at_no_distance_and_tie_exactly() -> None:
    weight = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)).expand(40, 300).double()
    assert _values(FPGM, LayerStatistics("x", weight)) == [0] * 40


@pytest.mark.parametrize("entries", [1, 9], ids=["single weights", "kernels"])
def test_distances_in_parts_and_by_sorting_equal_the_slow_sum(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "_AT_ONCE", 500)  # a few rows at a time
    weight = torch.randn(130, entries, generator=torch.Generator().manual_seed(0)).double()
    weight[::7], weight[3] = 0.5, weight[90]
    rows = weight.tolist()
    expected = [sum(math.dist(one, other) for other in rows) for one in rows]
    found = _values(FPGM, LayerStatistics("x", weight))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len({found[i] for i in range(0, 130, 7)}) == 1  # equal structures tie exactly
    assert found[3] == found[90]


def test_distances_of_many_single_weights_take_no_square_of_memory() -> None:
    weight = torch.linspace(0, 1, 1_000_001, dtype=torch.float64).view(-1, 1)
    found = _values(FPGM, LayerStatistics("x", weight))
    assert found[0] == pytest.approx(500_000.5)
    assert min(found) == found[500_000] == pytest.approx(250_000.5, rel=1e-5)


@pytest.mark.parametrize(
    "name", ["magnitude", "threshold", "std_threshold", "l1", "l2", "taylor", "gradient", "saliency"]
)
@pytest.mark.parametrize("pattern", ["element", "kernel", "column", "2:4"])
def test_criteria_of_weights_equal_a_slow_loop_over_structures(
    name: str, pattern: str, mixed: Mixed, graph: ChannelGraph, batches: Batches
) -> None:
    pruner = Pruner("plain", registry.resolve("criterion", name), parse_pattern(pattern), normalise=False)
    scores = pruner.estimate_importance(mixed, graph, CalibrationData(batches, F.cross_entropy))
    for layer in ("grouped", "up_grouped", "fc1"):
        if layer not in scores:
            continue  # it holds no two such structures
        module = mixed.get_submodule(layer)
        gradients = _weight_gradients(mixed, layer, batches)
        expected = [
            [_slow(name, module.weight.detach(), gradients, indices) for indices in row]
            for row in structures(pattern, module)
        ]
        np.testing.assert_allclose(scores[layer].reshape(len(expected), -1), expected, rtol=1e-9, err_msg=layer)
    assert {"grouped", "fc1"} <= scores.keys()


def _weight_gradients(network: Mixed, layer: str, batches: Batches) -> list[torch.Tensor]:
    found = []
    for inputs, targets in batches:
        twin = copy.deepcopy(network).eval()
        F.cross_entropy(twin(inputs), targets).backward()
        found.append(twin.get_submodule(layer).weight.grad)
    return found


def _slow(name: str, weight: torch.Tensor, gradients: list[torch.Tensor], indices: Sequence[tuple[int, ...]]) -> float:
    values = [float(weight[index]) for index in indices]
    sums = {
        "magnitude": lambda: sum(map(abs, values)) / len(values),
        "threshold": lambda: max(map(abs, values)),
        "std_threshold": lambda: max(map(abs, values)) / statistics.pstdev(weight.flatten().tolist()),
        "l1": lambda: sum(map(abs, values)),
        "l2": lambda: math.hypot(*values),
        "taylor": lambda: _mean(sum(float(weight[p] * g[p]) ** 2 for p in indices) for g in gradients),
        "gradient": lambda: _mean(sum(abs(float(g[p])) for p in indices) for g in gradients),
        "saliency": lambda: _mean(sum(abs(float(weight[p] * g[p])) for p in indices) for g in gradients),
    }
    return sums[name]()


def _mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


@pytest.mark.parametrize("criterion", [RANDOM, BERNOULLI], ids=lambda criterion: criterion.name)
def test_controls_are_drawn_from_seed_layer_and_use_alone(criterion: Criterion) -> None:
    weight = torch.zeros(64, 3)
    first = _values(criterion, LayerStatistics("a", weight, seed=1))
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002 - the global generators must not matter
    before = torch.get_rng_state()
    assert _values(criterion, LayerStatistics("a", weight, seed=1)) == first
    assert torch.equal(before, torch.get_rng_state())
    assert _values(criterion, LayerStatistics("b", weight, seed=1)) != first
    assert _values(criterion, LayerStatistics("a", weight, seed=2)) != first


def test_two_uses_of_a_seed_are_independent() -> None:
    statistics = LayerStatistics("a", torch.zeros(64, 3))
    assert [value < 0.5 for value in _values(RANDOM, statistics)] != [
        value == 1 for value in _values(BERNOULLI, statistics)
    ]


def test_coin_tosses_fall_to_both_sides_and_draws_are_spread() -> None:
    statistics = LayerStatistics("a", torch.zeros(1000, 1))
    tosses, draws = _values(BERNOULLI, statistics), _values(RANDOM, statistics)
    assert set(tosses) == {0, 1}
    assert 450 < sum(tosses) < 550
    assert 450 < sum(draws) < 550
    assert len(set(draws)) == 1000


class _Unread:
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        raise AssertionError("weights alone are needed")


@pytest.mark.parametrize("name", registry.CRITERIA)
def test_only_criteria_that_need_data_read_them(name: str, mixed: Mixed, graph: ChannelGraph) -> None:
    criterion: Criterion = registry.resolve("criterion", name)
    assert criterion.name == name
    assert criterion.description
    pruner = Pruner("plain", criterion)
    if criterion.reads_data:
        with pytest.raises(AssertionError, match="weights alone"):
            pruner.estimate_importance(mixed, graph, CalibrationData(_Unread(), F.cross_entropy))
    else:
        pruner.estimate_importance(mixed, graph, CalibrationData(_Unread(), F.cross_entropy))
        pruner.estimate_importance(mixed, graph)
