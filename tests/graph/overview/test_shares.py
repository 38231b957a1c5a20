from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph.channel_ids import Reason
from autoprune.graph.costs import count_flops, count_params
from autoprune.graph.groups import find_groups
from autoprune.graph.overview.shares import costs_by_owner
from autoprune.tasks.models.digits_resnet import digits_resnet
from tests.graph.unusual_networks import TransformerBlock


def test_a_layers_costs_belong_to_those_who_decide_on_its_outputs() -> None:
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    found = costs_by_owner(network, find_groups(network, torch.rand(2, 3)))
    output = Reason("it is the network's output")
    assert found["flops"] == {"0": 2 * 3 * 8, "2": 2 * 8 * 5, output: 2 * 5 * 2}
    assert found["params"] == {"0": 4 * 8, "2": 9 * 5, output: 6 * 2}


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (digits_resnet(), torch.rand(2, 1, 8, 8)),
        (nn.Sequential(nn.Embedding(11, 16), TransformerBlock(16, True)), torch.randint(0, 11, (2, 5))),
        (nn.Sequential(nn.Embedding(11, 16), TransformerBlock(16, False)), torch.randint(0, 11, (2, 5))),
    ],
)
def test_all_parts_add_up_to_the_whole_network(network: nn.Module, inputs: Tensor) -> None:
    network.eval()
    found = costs_by_owner(network, find_groups(network, inputs))
    assert found["params"].total() == count_params(network)
    assert found["flops"].total() == count_flops(network, inputs)
