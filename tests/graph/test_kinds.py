from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from autoprune.graph.branches import find_kinds
from autoprune.graph.groups import find_groups
from autoprune.tasks.models.digits_resnet import digits_resnet
from tests.graph.unusual_networks import TransformerBlock


def named(network: nn.Module, inputs: torch.Tensor) -> dict[str, str]:
    graph = find_groups(network.eval(), inputs)
    kinds = find_kinds(network, graph)
    return {each.name: replace(each.group, kind=kinds.get(each.name, "")).structures for each in graph.groups}


def test_heads_hidden_units_and_stream_of_a_transformer_are_named() -> None:
    for fused in (True, False):
        blocks = TransformerBlock(16, fused), TransformerBlock(16, fused)
        network = nn.Sequential(nn.Embedding(11, 16), *blocks, nn.Linear(16, 3))
        found = named(network, torch.randint(0, 11, (2, 5)))
        assert sorted(set(found.values())) == ["heads", "hidden units", "stream"]
        assert [name for name, kind in found.items() if kind == "stream"] == ["0"]
        assert sum(kind == "heads" for kind in found.values()) == 2
        assert [name for name, kind in found.items() if kind == "hidden units"] == ["1.mlp.0", "2.mlp.0"]


def test_units_of_recurrent_layers_are_named() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 8, 2, batch_first=True)
            self.out = nn.Linear(8, 11)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.lstm(self.embedding(x))[0])

    found = named(Model(), torch.randint(0, 11, (2, 5)))
    assert found == {"embedding": "channels", "lstm": "hidden units", "lstm:2": "hidden units"}


def test_channels_and_streams_of_a_residual_network_are_named() -> None:
    found = named(digits_resnet(), torch.rand(2, 1, 8, 8))
    assert found["conv"] == "stream"
    assert found["stage1.conv1"] == "channels"
