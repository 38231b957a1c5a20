from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.graph.groups import find_groups
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.norms import l1_norm
from autoprune.pruning.pruner import L1_FILTER, Pruner, filters
from tests.graph.networks import resnet_b


def test_filters_of_a_transposed_convolution_are_its_output_channels() -> None:
    conv = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    layer = Layer("x", "transposed", "ConvTranspose2d", torch.arange(4), torch.arange(6), groups=2)
    rows = filters(layer, conv.weight.detach())
    assert rows.shape == (6, 2, 3, 3)
    for out in range(6):
        changed = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
        with torch.no_grad():
            changed.weight.zero_()
            group, within = divmod(out, 3)
            changed.weight[2 * group : 2 * group + 2, within] = rows[out]
        x = torch.randn(1, 4, 5, 5)
        torch.testing.assert_close(changed(x)[:, out], conv(x)[:, out])
        assert not changed(x)[:, [i for i in range(6) if i != out]].any()


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
    scores = Pruner("sum", l1_norm, combine="sum", normalise=False).scores(network, graph)["0.1.conv3"]
    np.testing.assert_allclose(scores, 0.1 * 8 + np.arange(1, 17) * 8, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_structure_across_a_convolutions_groups_scores_the_sum_of_its_channels(groups: int) -> None:
    network, inputs = resnet_b(groups), torch.randn(2, 3, 8, 8)
    graph = find_groups(network, inputs)
    scores = Pruner("plain", l1_norm, normalise=False).scores(network, graph)["0.1.conv2"]
    norms = network.get_submodule("0.1.conv2").weight.detach().double().abs().sum((1, 2, 3))
    np.testing.assert_allclose(scores, norms.view(groups, -1).sum(0).numpy())
