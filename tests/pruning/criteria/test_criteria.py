from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune import registry
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.criteria.activations import APOZ, MEAN_ACTIVATION
from autoprune.pruning.criteria.base import Activations, Criterion, Evidence, Gradients
from autoprune.pruning.criteria.controls import BERNOULLI, RANDOM
from autoprune.pruning.criteria.distances import FPGM
from autoprune.pruning.criteria.gradients import GRADIENT, TAYLOR
from autoprune.pruning.masks import Importance, choose
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.statistics import Source
from tests.graph.contract import randomise
from tests.pruning.criteria.slow import STRUCTURES, Batches, Mixed, channel_score

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
    return pruner.scores(network, graph, Source(batches, F.cross_entropy), seed)


@pytest.mark.parametrize("name", MEASURED)
def test_every_criterion_equals_a_slow_loop_over_filters(
    name: str, mixed: Mixed, graph: ChannelGraph, batches: Batches
) -> None:
    scores = _scores(registry.resolve("criterion", name), mixed, graph, batches)
    assert set(scores) == set(STRUCTURES)
    for group, structures in STRUCTURES.items():
        expected = []
        for structure in structures:
            parts = [(layer, channel) for layer, channels in structure.items() for channel in channels]
            found = [channel_score(name, mixed, layer, channel, batches) for layer, channel in parts]
            if None in found:  # no batch norm follows: scored by L1
                found = [channel_score("l1", mixed, layer, channel, batches) for layer, channel in parts]
            expected.append(sum(score for score in found if score is not None))
        np.testing.assert_allclose(scores[group], expected, rtol=1e-9, err_msg=group)


def test_distinct_criteria_keep_distinct_channels() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
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
    kept = {
        name: choose(_scores(registry.resolve("criterion", name), network, graph, batches), {"0": 20})["0"]
        for name in registry.CRITERIA
    }
    same = [pair for pair in combinations(kept, 2) if kept[pair[0]] == kept[pair[1]]]
    assert not same


def _values(criterion: Criterion, evidence: Evidence) -> list[float]:
    scores = criterion.score(evidence)
    assert scores is not None
    return list(scores.tolist())


def test_formulas_by_hand() -> None:
    assert _values(FPGM, Evidence("x", torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))) == [5, 10, 5]
    weight = torch.tensor([[1.0, 2.0], [0.5, 0.0]])
    gradients = Gradients(torch.tensor([[1.0, 3.0], [2.0, 5.0]]), torch.tensor([[1.0, 10.0], [8.0, 30.0]]))
    assert _values(TAYLOR, Evidence("x", weight, gradients=gradients)) == [41, 2]
    assert _values(GRADIENT, Evidence("x", weight, gradients=gradients)) == [4, 7]
    seen = Evidence("x", weight, activations=Activations(torch.tensor([0.25, 1.0]), torch.tensor([7.0, 2.0])))
    assert _values(APOZ, seen) == [0.25, 1]
    assert _values(MEAN_ACTIVATION, seen) == [7, 2]


def test_equal_filters_are_at_no_distance_and_tie_exactly() -> None:
    weight = torch.randn(1, 300, generator=torch.Generator().manual_seed(0)).expand(40, 300).double()
    assert _values(FPGM, Evidence("x", weight)) == [0] * 40


@pytest.mark.parametrize("criterion", [RANDOM, BERNOULLI], ids=lambda criterion: criterion.name)
def test_controls_are_drawn_from_seed_layer_and_use_alone(criterion: Criterion) -> None:
    weight = torch.zeros(64, 3)
    first = _values(criterion, Evidence("a", weight, seed=1))
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002 - the global generators must not matter
    before = torch.get_rng_state()
    assert _values(criterion, Evidence("a", weight, seed=1)) == first
    assert torch.equal(before, torch.get_rng_state())
    assert _values(criterion, Evidence("b", weight, seed=1)) != first
    assert _values(criterion, Evidence("a", weight, seed=2)) != first


def test_two_uses_of_a_seed_are_independent() -> None:
    evidence = Evidence("a", torch.zeros(64, 3))
    assert [value < 0.5 for value in _values(RANDOM, evidence)] != [
        value == 1 for value in _values(BERNOULLI, evidence)
    ]


def test_coin_tosses_fall_to_both_sides_and_draws_are_spread() -> None:
    evidence = Evidence("a", torch.zeros(1000, 1))
    tosses, draws = _values(BERNOULLI, evidence), _values(RANDOM, evidence)
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
            pruner.scores(mixed, graph, Source(_Unread(), F.cross_entropy))
    else:
        pruner.scores(mixed, graph, Source(_Unread(), F.cross_entropy))
        pruner.scores(mixed, graph)
