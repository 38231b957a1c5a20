from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import UserError
from autoprune.graph.groups import find_groups
from autoprune.pruning.criteria.magnitudes import BN_SCALE, L1
from autoprune.pruning.pruner import L1_FILTER, Pruner
from tests.graph.networks import resnet_b

L1_FILTER_PLAIN = Pruner("plain", L1, normalise=False)


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
    scores = L1_FILTER.estimate_importance(network, graph)["0.1.conv3"]
    ramp = np.arange(1, 17) / 8.5
    np.testing.assert_allclose(scores, (1 + ramp) / 2)


def test_scores_as_they_are_can_be_summed_instead() -> None:
    network, inputs = _coupled()
    graph = find_groups(network, inputs)
    scores = Pruner("sum", L1, combine="sum", normalise=False).estimate_importance(network, graph)["0.1.conv3"]
    np.testing.assert_allclose(scores, 0.1 * 8 + np.arange(1, 17) * 8, rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_a_structure_across_a_convolutions_groups_scores_the_sum_of_its_channels(groups: int) -> None:
    network, inputs = resnet_b(groups), torch.randn(2, 3, 8, 8)
    graph = find_groups(network, inputs)
    scores = Pruner("plain", L1, normalise=False).estimate_importance(network, graph)["0.1.conv2"]
    norms = network.get_submodule("0.1.conv2").weight.detach().double().abs().sum((1, 2, 3))
    np.testing.assert_allclose(scores, norms.view(groups, -1).sum(0).numpy())


@pytest.mark.parametrize("normalise", [True, False])
def test_the_highest_score_of_a_groups_layers_may_decide(normalise: bool) -> None:
    network, inputs = _coupled()
    with torch.no_grad():
        network.get_submodule("0.1.conv3").weight.fill_(9)
    graph = find_groups(network, inputs)
    pruner = Pruner("max", L1, combine="max", normalise=normalise)
    scores = pruner.estimate_importance(network, graph)["0.1.conv3"]
    ramp = np.arange(1, 17)
    expected = np.maximum(1, ramp / 8.5) if normalise else 8 * np.maximum(9, ramp)
    np.testing.assert_allclose(scores, expected)


def test_a_group_without_batch_norm_is_scored_by_l1_and_named_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)
    )
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([1.0, -4.0, 0.0, 3.0]))
    graph = find_groups(network, torch.randn(2, 3, 4, 4))
    pruner = Pruner("plain", BN_SCALE, normalise=False)
    monkeypatch.setattr(logging.getLogger("autoprune"), "propagate", True)  # the command line keeps its log to itself
    with caplog.at_level(logging.WARNING, logger="autoprune"):
        scores = pruner.estimate_importance(network, graph)
    assert scores["0"].tolist() == [1, 4, 0, 3]
    np.testing.assert_allclose(scores["3"], L1_FILTER_PLAIN.estimate_importance(network, graph)["3"])
    assert "plain: bn_scale cannot score 3, as no batch norm follows them; scored by l1" in caplog.text


def test_a_layer_of_a_group_without_batch_norm_has_no_say() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normed, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.plain, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out((self.bn(self.normed(x)) + self.plain(x)).relu())

    network = Skip()
    with torch.no_grad():
        network.bn.weight.copy_(torch.tensor([1.0, -4.0, 0.0, 3.0]))
    scores = Pruner("plain", BN_SCALE, normalise=False).estimate_importance(
        network, find_groups(network, torch.randn(2, 3, 4, 4))
    )
    assert scores["normed"].tolist() == [1, 4, 0, 3]


def test_scores_that_are_not_finite_are_refused() -> None:
    network, inputs = _coupled()
    graph = find_groups(network, inputs)
    with torch.no_grad():
        network.get_submodule("0.2.conv1").weight[0] = torch.inf
    with pytest.raises(UserError, match=r"pruner 'l1_filter' gives group '0\.2\.conv1' scores that are not finite"):
        L1_FILTER.estimate_importance(network, graph)
