from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.graph.groups import find_groups
from autoprune.pruning.criteria.norms import L1
from autoprune.pruning.pruner import L1_FILTER, Pruner
from tests.graph.networks import resnet_b


def _coupled() -> tuple[nn.Module, torch.Tensor]:
    network = resnet_b()
    with torch.no_grad():
        network.get_submodule("0.1.conv3").weight.fill_(0.1)
        weight = network.get_submodule("0.1.down.0").weight
        weight.copy_(torch.arange(1, 17).view(-1, 1, 1, 1).expand(weight.shape))
    return network, torch.randn(2, 3, 8, 8)


def test_layers_that_share_a_group_have_an_equal_say_when_normalised() -> None:
    network, inputs = _coupled()
    graph = find_groups(network, inputs)
    scores = L1_FILTER.scores(network, graph)["0.1.conv3"]
    ramp = np.arange(1, 17) / 8.5
    np.testing.assert_allclose(scores, (1 + ramp) / 2)


def test_scores_as_they_are_can_be_summed_instead() -> None:
    network, inputs = _coupled()
    graph = find_groups(network, inputs)
    scores = Pruner("sum", L1, combine="sum", normalise=False).scores(network, graph)["0.1.conv3"]
    np.testing.assert_allclose(scores, 0.1 * 8 + np.arange(1, 17) * 8, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_structure_across_a_convolutions_groups_scores_the_sum_of_its_channels(groups: int) -> None:
    network, inputs = resnet_b(groups), torch.randn(2, 3, 8, 8)
    graph = find_groups(network, inputs)
    scores = Pruner("plain", L1, normalise=False).scores(network, graph)["0.1.conv2"]
    norms = network.get_submodule("0.1.conv2").weight.detach().double().abs().sum((1, 2, 3))
    np.testing.assert_allclose(scores, norms.view(groups, -1).sum(0).numpy())
