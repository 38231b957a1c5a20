"""The contract on the networks of torchvision, where it is installed, and the layers that Torch-Pruning couples."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.graph.costs import build_cost_table, measure_costs
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.surgery.thinning import thin
from tests.graph.contract import allocations, randomise

pytestmark = pytest.mark.slow

# Name to groups, and the greatest share of the FLOPs that may remain with every group at its narrowest.
NETWORKS: dict[str, tuple[int, float]] = {
    "resnet18": (12, 0.01), "resnet50": (37, 0.01), "resnext50_32x4d": (37, 0.01), "wide_resnet50_2": (37, 0.01),
    "densenet121": (120, 0.01), "googlenet": (57, 0.01), "inception_v3": (94, 0.01), "mobilenet_v2": (25, 0.01),
    "mobilenet_v3_small": (27, 0.01), "efficientnet_b0": (40, 0.01), "regnet_y_400mf": (53, 0.01),
    "shufflenet_v2_x1_0": (39, 0.01), "squeezenet1_1": (25, 0.01), "vgg16_bn": (15, 0.01), "alexnet": (7, 0.01),
    "mnasnet0_5": (25, 0.01), "convnext_tiny": (18, 0.1), "vit_b_16": (12, 0.7), "swin_t": (12, 0.75),
}  # fmt: skip
PIXELS = {"inception_v3": 96, "vit_b_16": 224}
_OPERATORS: list[torch.library.Library] = []


@pytest.fixture(scope="module")
def models() -> Any:
    """The models of torchvision, also beside a torch without its compiled operators: those are declared first."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATORS.append(library)
    return importlib.import_module("torchvision.models")


def _build(models: Any, name: str) -> nn.Module:
    quiet = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = getattr(models, name)(**quiet)
    return randomise(network).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_thinned_equals_masked_and_costs_are_exact_on_real_networks(models: Any, name: str) -> None:
    torch.manual_seed(0)
    groups, least = NETWORKS[name]
    network, inputs = _build(models, name), torch.randn(2, 3, PIXELS.get(name, 64), PIXELS.get(name, 64))
    graph = find_groups(network, inputs)
    table = build_cost_table(network, graph, inputs)
    dense = table.dense()
    assert len(graph.groups) == groups
    assert table.costs({group.name: 1 for group in graph.groups})["flops"] <= least * dense["flops"]
    assert dense == measure_costs(network, inputs)
    for kept in allocations(graph, draws=1):
        thinned = thin(network, graph, kept, check_on=inputs)
        # Uneven halves of channels need numbers where chunk(2) stood.
        assert type(thinned) is type(network) or name == "shufflenet_v2_x1_0"
        assert measure_costs(thinned, inputs) == table.costs({group: len(stays) for group, stays in kept.items()})


def _coupled(graph: ChannelGraph) -> set[frozenset[str]]:
    return {frozenset(group.group.producers) for group in graph.groups}


@pytest.mark.parametrize("name", ["resnet18", "vgg16_bn", "mobilenet_v2"])
def test_the_layers_coupled_are_those_that_torch_pruning_couples(models: Any, name: str) -> None:
    oracle = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    network, inputs = _build(models, name), torch.randn(2, 3, 64, 64)
    found = _coupled(find_groups(network, inputs))
    graph = oracle.DependencyGraph().build_dependency(network, example_inputs=inputs)
    names = {module: key for key, module in network.named_modules()}
    expected = set()
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        makers = {
            names[dep.target.module]
            for dep, _ in group
            if isinstance(dep.target.module, (nn.Conv2d, nn.Linear))
            and getattr(dep.target.module, "groups", 1) == 1
            and graph.is_out_channel_pruning_fn(dep.handler)
        }
        expected.add(frozenset(makers))
    last = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    assert found == expected - {frozenset({last})}
