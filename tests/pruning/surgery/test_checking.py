from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.groups import ChannelGraph, Kept, find_groups
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.surgery.checking import ThinningError, check_on_fresh_inputs, check_thinned
from autoprune.pruning.surgery.thinning import thin


class Auxiliary(nn.Module):
    """Has a second head, batch norm and dropout in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.head, self.auxiliary = nn.Linear(6, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.dropout(self.norm(self.first(x)).relu(), 0.3, self.training)
        y: Tensor = self.head(self.second(x).relu().mean((2, 3)))
        return (y, self.auxiliary(x.mean((2, 3)))) if self.training else y


def half(graph: ChannelGraph) -> Kept:
    return {group.name: range(0, group.group.width, 2) for group in graph.groups}


def prepared(network: nn.Module, inputs: Tensor) -> tuple[nn.Module, ChannelGraph, Kept, ModelInputs]:
    given = ModelInputs.of(inputs)
    graph = find_groups(network, given)
    return thin(network, graph, half(graph)), graph, half(graph), given


def test_both_modes_are_compared_on_other_samples() -> None:
    network = Auxiliary().eval()
    seen: list[tuple[bool, int]] = []
    network.register_forward_pre_hook(lambda module, args: seen.append((module.training, len(args[0]))))
    thinned, graph, kept, inputs = prepared(network, torch.rand(2, 3, 9, 9))
    seen.clear()
    check_on_fresh_inputs(thinned, network, graph, kept, inputs)
    assert {(False, 3), (True, 3)} <= set(seen)


def test_a_fault_that_shows_in_training_mode_alone_is_found_there() -> None:
    network = Auxiliary()
    thinned, graph, kept, inputs = prepared(network, torch.rand(2, 3, 9, 9))
    check_on_fresh_inputs(thinned, network, graph, kept, inputs)
    with torch.no_grad():
        thinned.get_parameter("auxiliary.weight").mul_(1.001)
    check_thinned(thinned, network, graph, kept, inputs)
    with pytest.raises(ThinningError, match="differs"):
        check_on_fresh_inputs(thinned, network, graph, kept, inputs)


def test_statistics_of_neither_network_change() -> None:
    network = Auxiliary()
    thinned, graph, kept, inputs = prepared(network, torch.rand(2, 3, 9, 9))
    before = [{k: v.clone() for k, v in each.state_dict().items()} for each in (network, thinned)]
    check_on_fresh_inputs(thinned, network, graph, kept, inputs)
    for each, was in zip((network, thinned), before, strict=True):
        assert all(torch.equal(tensor, was[name]) for name, tensor in each.state_dict().items())


def test_integers_are_drawn_in_the_range_observed() -> None:
    network = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 6), nn.Linear(6, 2))
    thinned, graph, kept, inputs = prepared(network, torch.tensor([[0, 6, 3], [2, 5, 1]]))
    check_on_fresh_inputs(thinned, network, graph, kept, inputs)  # an index out of range would raise


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("mode", ["randn_like", "dropout"])
def test_noise_is_the_same_for_both(mode: str) -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x) if mode == "randn_like" else F.dropout(x, 0.5, training=True)

    network = nn.Sequential(nn.Linear(5, 8), Noise(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    thinned, graph, kept, inputs = prepared(network, torch.randn(2, 5))
    check_thinned(thinned, network, graph, kept, inputs)
    check_on_fresh_inputs(thinned, network, graph, kept, inputs)
    with torch.no_grad():
        thinned.get_parameter("0.weight").mul_(1.5)
    with pytest.raises(ThinningError, match="differs"):
        check_on_fresh_inputs(thinned, network, graph, kept, inputs)


def test_a_network_that_knows_but_one_number_of_samples_is_compared_on_that() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            assert len(x) <= 2, "pairs"
            return self.last(self.first(x).relu())

    network = Pairs()
    thinned, graph, kept, inputs = prepared(network, torch.randn(2, 5))
    check_on_fresh_inputs(thinned, network, graph, kept, inputs)
    with torch.no_grad():
        thinned.get_parameter("first.weight").mul_(1.5)
    with pytest.raises(ThinningError, match="differs"):
        check_on_fresh_inputs(thinned, network, graph, kept, inputs)


def test_a_thinned_network_that_cannot_run_is_a_fault_of_thinning() -> None:
    network = Auxiliary()
    thinned, graph, kept, inputs = prepared(network, torch.rand(2, 3, 9, 9))
    thinned.second = nn.Conv2d(5, 3, 3)
    with pytest.raises(ThinningError, match=r"cannot run .*test_checking.py:"):
        check_thinned(thinned, network, graph, kept, inputs)
