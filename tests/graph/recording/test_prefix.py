from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.graph.recording.prefix import PartialRunner, crosses_state, shared_prefix
from tests.graph.contract import traced
from tests.graph.networks import WELL_KNOWN


class Views(nn.Module):
    """Two halves of one activation, one of them changed in place, and the whole used afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        x = self.norm(self.conv(x)) * scale
        one, two = x.chunk(2, dim=1)
        one.mul_(-1)
        return self.last((x + torch.cat((two, one), 1)).mean((2, 3)))


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name == "views":
        return Views().eval(), torch.randn(2, 3, 6, 6)
    case = WELL_KNOWN[name]
    return case.build().float().eval(), torch.randn(2, *case.shape)


@pytest.mark.parametrize("name", ["views", "vgg", "resnet_b", "densenet", "shufflenet_v2_computed", "unet_interpolate"])
def test_any_two_parts_give_what_the_whole_gives(name: str) -> None:
    network, inputs = build(name)
    parts = PartialRunner(traced(network, inputs))
    with torch.no_grad():
        expected = network(inputs.clone())
        for index in range(parts.first, len(parts.nodes)):
            values = parts.advance(parts.begin(inputs.clone()), parts.first, index)
            assert tuple(values) == parts.alive(index)
            torch.testing.assert_close(parts.finish(copy.deepcopy(values), index), expected, rtol=0, atol=0)


def test_the_values_at_an_operation_may_be_used_again_if_copies_are_given_away() -> None:
    network, inputs = build("views")
    parts = PartialRunner(traced(network, inputs))
    index = next(i for i, node in enumerate(parts.nodes) if node.target == "mul_")
    with torch.no_grad():
        values = parts.advance(parts.begin(inputs), parts.first, index)
        first, second = (parts.finish(copy.deepcopy(values), index) for _ in range(2))
        assert torch.equal(first, second)
        parts.finish(values, index)
        assert not torch.equal(first, parts.finish(values, index))


def test_faults_of_a_network_are_raised_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    parts = PartialRunner(traced(network, torch.zeros(1, 3, 8, 8)))
    network[1] = nn.Conv2d(5, 4, 3)
    parts.module.add_module("1", network[1])
    with pytest.raises(RuntimeError) as plain:
        network(torch.zeros(1, 3, 8, 8))
    with pytest.raises(RuntimeError) as found:
        parts.finish(parts.begin(torch.zeros(1, 3, 8, 8)), parts.first)
    assert str(found.value) == str(plain.value)


def _change(network: Any, what: str) -> None:
    with torch.no_grad():
        if what == "weight":
            network.norm.weight[0] += 1
        elif what == "statistics":
            network.norm.running_mean[0] += 1
        elif what == "last":
            network.last.bias[0] += 1


@pytest.mark.parametrize(
    ("what", "operation"), [("weight", "norm"), ("statistics", "norm"), ("last", "last"), ("nothing", None)]
)
def test_networks_are_the_same_up_to_the_first_tensor_that_differs(what: str, operation: str | None) -> None:
    network, inputs = build("views")
    other = copy.deepcopy(network)
    _change(other, what)
    one, two = traced(network, inputs), traced(other, inputs)
    names = [node.name for node in one.graph.nodes]
    assert shared_prefix(one, two) == (len(names) if operation is None else names.index(operation))


class Scaled(Views):
    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        return self.last((self.norm(self.conv(x)) * 3.0).mean((2, 3)))


def test_networks_are_the_same_up_to_the_first_operation_or_argument_that_differs() -> None:
    network, inputs = build("views")
    other = Scaled().eval()
    other.load_state_dict(network.state_dict())
    nodes = list(traced(network, inputs).graph.nodes)
    shared = shared_prefix(traced(network, inputs), traced(other, inputs))
    assert nodes[shared].op != "placeholder"
    assert shared <= [node.name for node in nodes].index("mul")


def test_state_is_crossed_between_two_calls_of_a_module_with_buffers() -> None:
    norm, relu = nn.BatchNorm2d(3), nn.ReLU()
    twin = traced(nn.Sequential(norm, relu, nn.Conv2d(3, 3, 1), norm, relu), torch.randn(2, 3, 4, 4))
    assert [crosses_state(twin, index) for index in range(1, 7)] == [False, True, True, True, False, False]
