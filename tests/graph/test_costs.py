from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.graph.costs import (
    build_cost_table,
    count_bytes,
    count_flops,
    count_params,
    measure_costs,
    measure_operations,
)
from autoprune.graph.groups import find_groups
from autoprune.tasks.models.cifar_resnet import resnet20, resnet56
from tests.graph.contract import traced
from tests.graph.recording.test_prefix import build
from tests.graph.unusual_networks import Folded, VisionTransformer


@pytest.mark.parametrize(
    ("published", "macs", "params"), [(resnet20, 40_551_040, 269_722), (resnet56, 125_485_696, 853_018)]
)
def test_the_published_networks_cost_what_is_published(published: type, macs: int, params: int) -> None:
    network, inputs = published(), torch.randn(2, 3, 32, 32)
    assert count_flops(network, inputs) == 2 * macs
    assert count_params(network) == params
    table = build_cost_table(network, find_groups(network, inputs), inputs)
    assert table.dense() == measure_costs(network, inputs)


def test_one_group_of_a_cost_table_worked_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1))
    inputs = torch.randn(2, 3, 6, 6)
    costs = build_cost_table(network, find_groups(network, inputs), inputs).costs({"0": 2})
    assert costs["flops"] == 2 * 16 * (2 * 27 + 5 * 2)
    assert costs["params"] == 2 * 27 + 2 * 2 + 5 * 2 + 5
    assert costs["size"] == 4 * (costs["params"] + 2 * 2) + 8  # running statistics, and the counter of batches


def test_shared_tensors_are_counted_once_and_half_precision_by_its_bytes() -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).bfloat16()
    network[1].weight = network[0].weight
    assert count_params(network) == 16
    assert count_bytes(network) == 32


def test_counting_leaves_every_module_in_its_mode() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout().eval())
    count_flops(network, torch.randn(2, 4))
    assert [module.training for module in network.modules()] == [True, True, False]


def test_positions_folded_into_the_batch_are_counted_for_one_sample() -> None:
    network, inputs = Folded(), torch.randn(2, 3, 6, 6)
    positions = {layer.name: layer.positions for layer in find_groups(network, inputs).layers}
    assert (positions["conv"], positions["fc1"]) == (36, 36)


def test_products_of_activations_cost_what_stays_of_their_channels() -> None:
    network, inputs = VisionTransformer(True), torch.randn(2, 3, 8, 8)
    table = build_cost_table(network, find_groups(network, inputs), inputs)
    # two products of 2 · tokens² · channels in each block
    assert table.by_layer("flops")["blocks.0.attention"] == 2 * (2 * 5 * 5 * 8)
    assert table.by_layer("flops", {"blocks.0.attention.qkv": 1})["blocks.0.attention"] == 2 * (2 * 5 * 5 * 4)


def test_operations_are_measured_one_by_one() -> None:
    network, inputs = build("views")
    twin = traced(network, inputs)
    costs = measure_operations(twin, inputs)
    names = [node.name for node in twin.graph.nodes]
    conv = 4 * 4 * (4 * 3 * 3 * 3)
    behind = {name: costs.macs_before[i + 1] for i, name in enumerate(names)}
    assert (behind["input_0"], behind["conv"], behind["cat"], behind["last"]) == (0, conv, conv, conv + 8)
    assert costs.macs_before[-1] == count_flops(network, inputs) // 2
    assert costs.size_bytes[names.index("conv")] == 4 * 4 * 4 * 4
    assert costs.size_bytes[names.index("chunk")] == 4 * 4 * 4 * 4  # both halves
