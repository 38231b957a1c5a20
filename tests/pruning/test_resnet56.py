"""The first convolutions of ResNet-56's first stage thinned by L1, against arithmetic (Li et al. 2017, 1608.08710)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.allocation import width_from_sparsity
from autoprune.graph.costs import build_cost_table, measure_costs
from autoprune.graph.groups import find_groups
from autoprune.pruning.pruner import L1_FILTER
from autoprune.pruning.surgery.masks import choose_kept
from autoprune.pruning.surgery.thinning import thin
from autoprune.tasks.models.cifar_resnet import CifarResNet, resnet56
from autoprune.tasks.weights import load_weights

BLOCKS, FILTERS, PIXELS = 9, 16, 32
REMOVED = 9  # floor(16 · 0.6)
PRUNED = [f"layer1.{block}.conv1" for block in range(BLOCKS)]


def _macs(kept: int) -> int:
    """Multiply-adds of ResNet-56 with `kept` filters in the first convolution of each block of the first stage."""
    macs = 0
    for stage, (channels, size) in enumerate(((16, 32), (32, 16), (64, 8))):
        for block in range(BLOCKS):
            incoming = channels // 2 if stage and block == 0 else channels
            between = kept if stage == 0 else channels
            for _position in range(size * size):
                macs += incoming * between * 3 * 3 + between * channels * 3 * 3
    return macs + 3 * 16 * 3 * 3 * PIXELS * PIXELS + 64 * 10


def _thinned(network: nn.Module, inputs: torch.Tensor) -> tuple[nn.Module, dict[str, tuple[int, ...]], int]:
    """The thinned network, what each group keeps, and the FLOPs that the cost table predicts."""
    graph = find_groups(network, inputs)
    allocation = {name: width_from_sparsity(FILTERS, 0.6) for name in PRUNED}
    kept = choose_kept(L1_FILTER.estimate_importance(network, graph), allocation)
    predicted = build_cost_table(network, graph, inputs).costs(allocation)["flops"]
    return thin(network, graph, kept, check_on=inputs), kept, predicted


def _random() -> CifarResNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return resnet56().eval()


@pytest.mark.parametrize("weights", ["random", "published"])
def test_the_removed_share_of_macs_is_what_arithmetic_says(weights: str, request: pytest.FixtureRequest) -> None:
    network = _random()
    if weights == "published":
        root: Path = request.getfixturevalue("checkpoints_root")
        load_weights(network, root / "resnet56_cifar10.th")
    inputs = torch.randn(2, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(1))
    thinned, kept, predicted = _thinned(network, inputs)
    dense, small = _macs(FILTERS), _macs(FILTERS - REMOVED)
    # Each of nine filters in nine blocks is computed at 32 × 32 positions from 16 channels and read by 16 filters.
    assert dense - small == BLOCKS * 2 * REMOVED * FILTERS * 3 * 3 * PIXELS * PIXELS == 23_887_872
    assert dense == 125_485_696
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        thinned(inputs[:1])
    counts = (counter.get_total_flops(), measure_costs(thinned, inputs)["flops"], predicted)
    assert counts == (2 * small, 2 * small, 2 * small)
    assert round(1 - counts[0] / measure_costs(network, inputs)["flops"], 4) == 0.1904
    _check_filters(network, thinned, kept)


def _check_filters(network: nn.Module, thinned: nn.Module, kept: dict[str, tuple[int, ...]]) -> None:
    """Only those convolutions and their readers are smaller, by the nine filters whose weights are least in sum."""
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        small = thinned.get_submodule(name).weight
        assert isinstance(small, torch.Tensor)
        block, _, which = name.rpartition(".")
        axis = {"conv1": 0, "conv2": 1}[which] if f"{block}.conv1" in kept else None
        if axis is None:
            assert torch.equal(small, layer.weight)
            continue
        first = network.get_submodule(f"{block}.conv1").weight
        norms = [sum(abs(w) for w in filter_.flatten().tolist()) for filter_ in first]
        strongest = sorted(sorted(range(FILTERS), key=norms.__getitem__)[REMOVED:])
        assert kept[f"{block}.conv1"] == tuple(strongest)
        assert torch.equal(small, layer.weight.index_select(axis, torch.tensor(strongest)))
