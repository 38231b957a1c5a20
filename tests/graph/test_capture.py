from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.capture import TrainingMode, mode, trace
from tests.graph.unusual_networks import Branching, DataDependent, FunctionalNorm


def test_the_modes_of_a_network_are_restored_one_by_one_also_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    network[1].eval()
    with mode(network, training=False):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, True, False]
    with pytest.raises(KeyError), mode(network, training=False):
        raise KeyError
    assert [module.training for module in network.modules()] == [True, True, False]


def test_a_network_in_training_mode_is_traced_as_in_evaluation_and_left_in_training() -> None:
    class Auxiliary(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if self.training else x * 3

    network = Auxiliary().train()
    assert trace(network)(torch.ones(1)).item() == 3
    assert network.training


def test_a_functional_dropout_follows_the_mode_of_the_traced_twin() -> None:
    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.5, training=self.training)

    traced, x = trace(Dropping().train()), torch.ones(1000)
    assert torch.equal(traced.eval()(x), x)
    assert (traced.train()(x) == 0).any()


def test_the_twin_shares_the_networks_parameters_and_adds_nothing_to_it() -> None:
    network = FunctionalNorm()
    traced = trace(network)
    assert traced.get_parameter("conv.weight") is network.conv.weight
    assert any(isinstance(module, TrainingMode) for module in traced.modules())
    assert not any(isinstance(module, TrainingMode) for module in network.modules())


def test_a_part_whose_flow_depends_on_data_is_left_whole_and_named(caplog: pytest.LogCaptureFixture) -> None:
    traced = trace(DataDependent(Branching()))
    assert "inner" in {node.target for node in traced.graph.nodes}
    assert "inner is left as it is: its inside cannot be traced" in caplog.text


def test_zeros_of_a_computed_size_are_traced_and_the_function_put_back() -> None:
    class Zeros(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.zeros(x.size(0), 1, device=x.device)

    plain = torch.zeros
    assert trace(Zeros())(torch.ones(5, 1)).shape == (5, 1)
    assert torch.zeros is plain
