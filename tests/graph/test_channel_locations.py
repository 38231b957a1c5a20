from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.channel_locations import ChannelMap, find_activation, find_batch_norm
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.graph.layers import Layer
from tests.graph.networks import WELL_KNOWN
from tests.graph.unusual_networks import UNUSUAL

# Network and layer to the batch norm that follows, and to the operation whose result its channels are seen in.
FOLLOWING: Mapping[tuple[str, str], tuple[str | None, str]] = {
    ("resnet20", "layer1.0.conv1"): ("layer1.0.bn1", "relu_1"),
    ("resnet20", "layer1.0.conv2"): ("layer1.0.bn2", "relu_2"),  # behind the addition
    ("resnext", "0.1.down.0"): ("0.1.down.1", "relu_"),  # in place, as a method would be
    ("pre_activation", "stem"): ("bn1", "relu"),
    ("pre_activation", "conv2"): ("bn", "relu_2"),
    ("densenet", "stem"): ("norms.0", "relu"),
    ("densenet", "convs.1"): ("norms.2", "relu_2"),  # behind a concatenation
    ("mobilenet_v2", "0.1.expand.0"): ("0.1.expand.1", "_0_1_expand_2"),
    ("mobilenet_v2", "0.1.project.0"): ("0.1.project.1", "add"),  # no activation function: what the next layer takes
    ("mobilenet_v3", "0.1.gate.fc2"): (None, "hardsigmoid"),
    ("unet_transposed", "up2"): (None, "cat"),
    ("lenet_flatten", "conv2"): (None, "relu_1"),
    ("lenet_flatten", "fc1"): (None, "sigmoid"),
    ("vgg", "6"): (None, "_7"),
    ("vit_fused", "blocks.0.mlp.0"): (None, "blocks_0_mlp_1"),
}  # fmt: skip


def _find_graph(name: str, layer: str) -> tuple[ChannelGraph, Layer]:
    case = {**WELL_KNOWN, **UNUSUAL}[name]
    graph = find_groups(case.build(), torch.randn(2, *case.shape))
    return graph, next(found for found in graph.layers if found.name == layer)


@pytest.mark.parametrize(("name", "layer"), FOLLOWING)
def test_norm_and_activation_are_found_through_the_traced_graph(name: str, layer: str) -> None:
    graph, found = _find_graph(name, layer)
    norm, location = find_batch_norm(graph, found), find_activation(graph, found)
    assert location is not None
    assert (norm[0] if norm else None, location.node.name) == FOLLOWING[name, layer]
    assert graph.flow.run.recording.values[location.node][location.dim or 0] == len(location.channel_map.entries)


def test_a_layer_whose_channels_are_the_output_is_met_nowhere() -> None:
    graph, head = _find_graph("lenet_flatten", "fc3")
    assert find_batch_norm(graph, head) is None
    assert find_activation(graph, head) is None


def test_entries_of_a_concatenation_are_told_apart() -> None:
    graph, conv = _find_graph("densenet", "convs.0")
    found = find_batch_norm(graph, conv)
    assert found is not None
    assert found[1].entries.tolist() == [-1] * 6 + [0, 1, 2, 3]
    assert found[1].classes.tolist() == [0, 1, 2, 3]


class _Module(nn.Module):
    """The batch norm that is registered next is not the one that follows."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.bn_of_two, self.two = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.bn_of_one, self.out = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn_of_one(self.one(x)))
        return self.out(F.relu(self.bn_of_two(self.two(x)))).mean((2, 3))


def test_norm_and_activation_follow_the_data_and_not_the_order_of_modules() -> None:
    graph = find_groups(_Module(), torch.randn(2, 3, 4, 4))
    norms = {layer.name: find_batch_norm(graph, layer) for layer in graph.layers if layer.produces}
    assert {name: norm and norm[0] for name, norm in norms.items()} == {
        "one": "bn_of_one", "two": "bn_of_two", "out": None,
    }  # fmt: skip


class _Tied(nn.Module):
    """Channels that stand twice in the activation, the second time halved; and those of another layer, tied to them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(6, 2, 1)
        self.sum = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        joined = torch.cat([one, two, one / 2], 1).relu()
        return (self.out(joined) + self.sum(one + two)).mean((2, 3))


def test_a_tied_layers_own_channels_are_found_where_they_can_be_told_apart() -> None:
    graph = find_groups(_Tied(), torch.randn(2, 3, 4, 4))
    one, two = (find_activation(graph, next(x for x in graph.layers if x.name == name)) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.channel_map.entries.tolist() == [0, 1, -1, -1, 0, 1]
    assert two.channel_map.entries.tolist() == [-1, -1, 0, 1, -1, -1]


def test_means_are_taken_over_the_entries_of_a_class() -> None:
    channel_map = ChannelMap(torch.tensor([1, 0, -1, 0]), torch.tensor([0, 1, 0]))
    assert channel_map.mean_per_channel(torch.tensor([5.0, 1.0, 9.0, 3.0])).tolist() == [2, 5, 2]
