"""Masked means: what makes a channel is zero, what uses it ignores it, norms are over the channels that stay."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.groups import find_groups
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.pruner import L1_FILTER
from autoprune.pruning.surgery.masked_run import NormsOverKept, masked_network, run_masked
from autoprune.pruning.surgery.masks import mask_network
from autoprune.pruning.surgery.thinning import thin
from autoprune.pruning.training.gradual import Pruning
from tests.graph.contract import randomise


class Stream(nn.Module):
    """A residual stream of 8 channels `[batch, channels, positions]` that a norm over channels ends."""

    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv1d(3, 8, 1), norm()
        self.up, self.down, self.head = nn.Conv1d(8, 5, 1), nn.Conv1d(5, 8, 1), nn.Conv1d(8, 2, 1)

    def normed(self, x: Tensor) -> Tensor:
        return self.norm(x) if isinstance(self.norm, nn.GroupNorm) else self.norm(x.mT).mT

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(F.gelu(self.up(self.normed(x))))
        return self.head(self.normed(x)).mean(2)


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


NORMS = {
    "layer": lambda: nn.LayerNorm(8),
    "rms": lambda: nn.RMSNorm(8),
    "group": lambda: nn.GroupNorm(2, 8),
    "instance-like": lambda: nn.GroupNorm(4, 8),
    "without affine": lambda: nn.LayerNorm(8, elementwise_affine=False),
}
INPUTS = torch.randn(3, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _stream(norm: Callable[[], nn.Module]) -> Stream:
    torch.manual_seed(0)
    network = randomise(Stream(norm).double())
    assert isinstance(network, Stream)
    return network.eval()


@pytest.mark.parametrize("name", NORMS)
def test_masked_in_every_way_is_what_the_thinned_network_computes(name: str) -> None:
    network = _stream(NORMS[name])
    graph = find_groups(network, INPUTS)
    widths = {group.name: group.group.width for group in graph.groups}
    kept = {group: [i for i in range(width) if i % 2 == 0] or [0] for group, width in widths.items()}
    assert len(kept["embed"]) < widths["embed"]
    expected = thin(network, graph, kept)(INPUTS)
    torch.testing.assert_close(run_masked(network, graph, kept, ModelInputs.of(INPUTS)), expected)
    torch.testing.assert_close(masked_network(network, graph, kept)(INPUTS), expected)
    zeroed = mask_network(network, graph, kept)
    plain = zeroed(INPUTS)
    norms = NormsOverKept(zeroed, graph)
    norms.set(kept)
    torch.testing.assert_close(zeroed(INPUTS), expected)
    norms.set({})
    torch.testing.assert_close(zeroed(INPUTS), plain)
    assert not norms.remove()


def test_gradients_are_those_of_the_thinned_network() -> None:
    network = _stream(NORMS["layer"])
    graph, kept = find_groups(network, INPUTS), {"embed": [0, 3, 5], "up": [1, 2]}
    small, masked = thin(network, graph, kept), masked_network(network, graph, kept)
    for each in (small, masked):
        each(INPUTS).square().sum().backward()
    torch.testing.assert_close(masked.down.weight.grad[[0, 3, 5]][:, [1, 2]], small.down.weight.grad)
    torch.testing.assert_close(masked.norm.weight.grad[[0, 3, 5]], small.norm.weight.grad)


def test_a_network_that_trains_with_masked_channels_is_the_one_that_is_thinned() -> None:
    network = _stream(NORMS["layer"])
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    pruning = Pruning(network, L1_FILTER, 0.5, inputs=INPUTS)
    for _ in range(3):
        optimizer.zero_grad()
        network(INPUTS).square().mean().backward()
        optimizer.step()
        pruning.step()
    trained = network(INPUTS)
    copied = copy.deepcopy(network)
    thinned = pruning.finish(thin=True)
    torch.testing.assert_close(thinned(INPUTS), trained)
    assert not any(module._forward_hooks for each in (network, thinned) for module in each.modules())
    torch.testing.assert_close(copied(INPUTS), network(INPUTS))  # copies have norms as they were


def test_two_prunings_of_one_network_normalise_over_what_both_leave() -> None:
    network = _stream(NORMS["rms"])
    first = Pruning(network, L1_FILTER, inputs=INPUTS, widths={"embed": 4})
    second = Pruning(network, L1_FILTER, inputs=INPUTS, widths={"up": 2}, masking=first.masking)
    graph = find_groups(copy.deepcopy(network), INPUTS)
    kept = {**first.kept_channels(), **second.kept_channels()}
    assert set(kept) == {"embed", "up"}
    torch.testing.assert_close(network(INPUTS), run_masked(network, graph, kept, ModelInputs.of(INPUTS)))
    second.finish()
    torch.testing.assert_close(
        network(INPUTS), run_masked(network, graph, first.kept_channels(), ModelInputs.of(INPUTS))
    )


def test_a_norm_that_is_written_out_is_named(caplog: pytest.LogCaptureFixture) -> None:
    network = _stream(ByHand)
    with caplog.at_level(logging.WARNING):
        Pruning(network, L1_FILTER, 0.5, inputs=INPUTS)
    assert "norm normalises by hand: while it trains, masked channels are zeros to it" in caplog.text
