"""What every pruner of the registry promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import registry
from autoprune.graph.groups import find_groups
from autoprune.graph.profile import count_params
from autoprune.pruning.masks import build_masks, choose
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.thinning import thin
from tests.graph.contract import randomise
from tests.graph.networks import WELL_KNOWN, resnet_b

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=sorted(registry.PRUNERS))
def pruner(request: pytest.FixtureRequest) -> Pruner:
    found: Pruner = registry.resolve("pruner", request.param)
    assert found.name == request.param
    return found


@pytest.mark.parametrize("name", ["resnet_b", "resnext", "unet_transposed", "mobilenet_v3", "shufflenet_v2_numbers"])
def test_every_structure_of_every_group_has_a_finite_score(pruner: Pruner, name: str) -> None:
    network = randomise(WELL_KNOWN[name].build())
    graph = find_groups(network, INPUTS)
    scores = pruner.scores(network, graph)
    assert {group: values.shape for group, values in scores.items()} == {
        group.name: (group.group.width,) for group in graph.groups
    }
    assert all(np.isfinite(values).all() for values in scores.values())


def test_exactly_the_asked_count_is_removed(pruner: Pruner) -> None:
    network = randomise(resnet_b())
    graph = find_groups(network, INPUTS)
    scores = pruner.scores(network, graph)
    rng = np.random.default_rng(0)
    for _ in range(5):
        widths = {group.name: int(rng.integers(1, group.group.width + 1)) for group in graph.groups}
        kept = choose(scores, widths)
        assert {group: len(set(stays)) for group, stays in kept.items()} == widths
        assert all(list(stays) == sorted(stays) for stays in kept.values())
        thinned = thin(network, graph, kept)
        assert thinned.get_submodule("0.1.conv2").out_channels == widths["0.1.conv2"]
        gone = sum(int((mask == 0).sum()) for mask in build_masks(network, graph, kept).values())
        assert count_params(network) - count_params(thinned) == gone


def test_equal_weights_tie_and_the_lower_index_goes_first(pruner: Pruner) -> None:
    network = resnet_b()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.25)
    graph = find_groups(network, INPUTS)
    scores = pruner.scores(network, graph)
    assert all(len(set(values.tolist())) == 1 for values in scores.values())
    kept = choose(scores, {group.name: 3 for group in graph.groups})
    assert all(stays == tuple(range(len(scores[g]) - 3, len(scores[g]))) for g, stays in kept.items())


def test_a_network_of_zeros_can_be_scored(pruner: Pruner) -> None:
    network = resnet_b()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    scores = pruner.scores(network, find_groups(network, INPUTS))
    assert all((values == 0).all() for values in scores.values())


def test_a_filter_of_zeros_goes_before_all_others(pruner: Pruner) -> None:
    network = resnet_b()
    with torch.no_grad():
        network.get_submodule("0.1.conv2").weight[5] = 0
    scores = pruner.scores(network, find_groups(network, INPUTS))["0.1.conv2"]
    assert int(scores.argmin()) == 5


def test_the_network_is_left_as_it_was(pruner: Pruner) -> None:
    network = resnet_b().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    pruner.scores(network, find_groups(network, INPUTS))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_scores_follow_the_present_weights(pruner: Pruner) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    graph = find_groups(network, INPUTS)
    first = pruner.scores(network, graph)["0"]
    with torch.no_grad():
        network[0].weight.copy_(network[0].weight.flip(0))
    np.testing.assert_allclose(pruner.scores(network, graph)["0"], first[::-1])
