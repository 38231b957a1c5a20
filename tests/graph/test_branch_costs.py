from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.costs import CostTable
from autoprune.graph.branches import build_branch_costs, find_branches
from autoprune.graph.costs import measure_costs
from autoprune.graph.groups import find_groups
from autoprune.pruning.surgery.branch_removal import remove_branches
from tests.graph.contract import batch, randomise
from tests.graph.networks import WELL_KNOWN
from tests.graph.test_branches import EXPECTED
from tests.graph.unusual_networks import UNUSUAL

CASES = {**WELL_KNOWN, **UNUSUAL}


def _costs(network: nn.Module, inputs: Tensor) -> CostTable:
    graph = find_groups(network, inputs)
    return build_branch_costs(network, graph, find_branches(network, graph))


@pytest.mark.parametrize("name", EXPECTED)
def test_predicted_costs_are_those_of_the_network_without_the_branches(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    network, inputs = randomise(case.build()), batch(case.shape, case.integers, torch.float32)
    graph = find_groups(network, inputs)
    table = build_branch_costs(network, graph, find_branches(network, graph))
    every = EXPECTED[name]
    assert table.widths == dict.fromkeys(every, 1)
    assert table.dense() == measure_costs(network, inputs)
    subsets = [every, every[:1], every[1::2], every[len(every) // 2 :], every[1:]]
    if len(every) <= 2:
        subsets = [gone for size in range(1, len(every) + 1) for gone in itertools.combinations(every, size)]
    for gone in subsets:
        removed = remove_branches(network, graph, gone)
        assert table.costs(dict.fromkeys(gone, 0)) == measure_costs(removed, inputs), gone


def test_the_cost_of_a_block_worked_by_hand() -> None:
    case = CASES["resnet20"]
    network, inputs = case.build(), batch(case.shape, False, torch.float32)
    table = _costs(network, inputs)
    saved = {kind: dense - table.cost({"layer1.2.conv1": 0}, kind) for kind, dense in table.dense().items()}
    weights, norms = 2 * 16 * 16 * 9, 2 * 16 * 4
    assert saved["flops"] == 2 * weights * 16 * 16
    assert saved["params"] == weights + norms // 2
    assert saved["size"] == 4 * (weights + norms) + 2 * 8  # each norm counts its batches
    assert table.by_layer("flops")["layer1.2.conv1"] == weights * 16 * 16


def test_a_network_without_branches_is_all_constant() -> None:
    case = CASES["vgg"]
    network, inputs = case.build(), batch(case.shape, False, torch.float32)
    table = _costs(network, inputs)
    assert not table.widths
    assert table.dense() == measure_costs(network, inputs)


def test_branches_that_are_left_out_are_part_of_the_constant() -> None:
    case = CASES["resnet20"]
    network, inputs = case.build(), batch(case.shape, False, torch.float32)
    graph = find_groups(network, inputs)
    table = build_branch_costs(network, graph, find_branches(network, graph)[2:4])
    assert table.widths == {"layer1.2.conv1": 1, "layer2.0.conv1": 1}
    assert table.dense() == measure_costs(network, inputs)
