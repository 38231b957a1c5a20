from __future__ import annotations

import torch

from autoprune.graph.groups import find_groups
from autoprune.tasks.models.cifar_resnet import resnet20
from tests.graph.networks import LeNet


def test_only_operations_that_name_a_channel_count_are_rewritten() -> None:
    graph = find_groups(LeNet("numbers"), torch.randn(2, 3, 32, 32))
    assert not graph.simulate({}).calls
    assert not graph.simulate({"conv1": [0, 3], "fc1": [1]}).calls
    found = graph.simulate({"conv2": [0, 3, 5]})
    assert [call[1][1:] for call in found.calls.values()] == [(-1, 75)]
    assert not found.faults


def test_padding_of_channels_keeps_as_many_as_stay_on_each_side() -> None:
    graph = find_groups(resnet20(), torch.randn(2, 3, 32, 32))
    found = graph.simulate({"layer2.0.conv2": [0, 1, 2, 8]})  # the padded 16: 8 in front, 8 behind
    assert [call[1][1] for call in found.calls.values()] == [(0, 0, 0, 0, 3, 1)]


def test_padding_by_an_attribute_gets_numbers_where_other_channels_stay_in_front_than_behind() -> None:
    graph = find_groups(resnet20(), torch.randn(2, 3, 32, 32))
    alike = graph.simulate({"conv1": list(range(8)), "layer2.0.conv2": [0, 1, 2, 3, 8, 9, 10, 11]})
    assert alike.attributes == {"layer2.0.shortcut.padding": 4}
    uneven = graph.simulate({"conv1": list(range(12)), "layer2.0.conv2": [0, 1, 2, *range(7, 16)]})
    assert not uneven.attributes  # six on each side would give as many channels
    assert [call[1][1] for call in uneven.calls.values()] == [(0, 0, 0, 0, 4, 8)]


def test_a_shape_computed_from_the_activation_needs_no_rewriting() -> None:
    graph = find_groups(LeNet("size"), torch.randn(2, 3, 32, 32))
    assert not graph.simulate({"conv2": [0, 3, 5]}).calls
