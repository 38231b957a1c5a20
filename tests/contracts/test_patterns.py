"""What every pattern promises, on every kind of layer, against nested loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune import registry
from autoprune.cli import main
from autoprune.graph.groups import find_groups
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.magnitudes import MAGNITUDE
from autoprune.pruning.patterns import Pattern, parse_pattern
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.surgery.masks import masked_copy
from autoprune.testing import PatternContract
from tests.pruning.slow_patterns import Weight, structures

WHOLE = ("filter", "layer")
"""Structures that go with all that uses them."""
PARSED = ("block_3x3x2x2", "block_2x1x3", "1:4", "3:7")
LAYERS = {
    "plain": nn.Conv2d(9, 4, 3),
    "wide": nn.Conv2d(17, 3, (3, 2)),
    "grouped": nn.Conv2d(16, 6, 3, groups=2),
    "depthwise": nn.Conv2d(6, 12, 3, groups=6),
    "transposed": nn.ConvTranspose2d(8, 6, 3),
    "transposed and grouped": nn.ConvTranspose2d(16, 6, 2, groups=2),
    "1-d": nn.Conv1d(8, 4, 3),
    "1-d transposed": nn.ConvTranspose1d(8, 4, 3, groups=2),
    "3-d": nn.Conv3d(8, 3, (1, 2, 2)),
    "linear": nn.Linear(18, 5),
}


@pytest.fixture(params=[*registry.PATTERNS, *PARSED])
def pattern(request: pytest.FixtureRequest) -> Pattern:
    found = parse_pattern(request.param)
    assert found.name == request.param
    assert found.description
    return found


@pytest.fixture(params=LAYERS)
def module(request: pytest.FixtureRequest, pattern: Pattern) -> nn.Module:
    if request.param == "3-d" and pattern.name.startswith("block"):
        pytest.skip("blocks are of at most two dimensions")
    return LAYERS[request.param]


def _layer(module: nn.Module) -> Layer:
    weight = Weight(module)
    kind = "transposed" if weight.transposed else "linear" if isinstance(module, nn.Linear) else "convolution"
    incoming = torch.arange(weight.inner * weight.groups)
    return Layer("x", kind, type(module).__name__, incoming, torch.arange(weight.out), 1, weight.groups)


def _indices(pattern: Pattern, module: nn.Module) -> Tensor:
    """`[choices, width, entries]` flat indices into the weight."""
    weight: Tensor = module.weight
    return pattern.arrange(_layer(module), torch.arange(weight.numel()).view(weight.shape))


def _flat(module: nn.Module, index: tuple[int, ...]) -> int:
    weight: Tensor = module.weight
    return int(np.ravel_multi_index(index, tuple(weight.shape)))


def test_structures_are_those_of_nested_loops(pattern: Pattern, module: nn.Module) -> None:
    found = _indices(pattern, module)
    expected = [[sorted(_flat(module, p) for p in each) for each in row] for row in structures(pattern.name, module)]
    if found.numel() == 0:
        assert not any(expected)
    else:
        assert [[sorted(each) for each in row] for row in found.tolist()] == expected


def test_every_weight_belongs_to_at_most_one_structure(pattern: Pattern, module: nn.Module) -> None:
    indices = _indices(pattern, module).flatten()
    assert len(indices.unique()) == len(indices)
    if pattern.name in ("filter", "element", "kernel", "channel", "row", "column"):
        assert len(indices) == module.weight.numel()


@pytest.mark.parametrize("equal", [False, True], ids=["random", "all equal"])
def test_exactly_the_asked_count_is_zeroed_and_of_equal_ones_the_lower_index_goes_first(
    pattern: Pattern, module: nn.Module, equal: bool
) -> None:
    if pattern.coupled:
        pytest.skip("whole channels are thinned away")
    network = nn.Sequential(_fresh(module, equal))
    weight = network[0].weight
    graph = find_groups(network, _inputs(module))
    found = Pruner("plain", MAGNITUDE, pattern).find_structures(network, graph)
    if not found.groups:
        assert _indices(pattern, module).shape[1] < 2 or _indices(pattern, module).numel() == 0
        return
    scores = Pruner("plain", MAGNITUDE, pattern, normalise=False).estimate_importance(network, graph)
    expected = structures(pattern.name, module)
    [group] = found.groups
    assert (group.name, group.width, group.least) == ("0", len(expected[0]), pattern.least)
    for keep in {pattern.least, group.width // 2 + 1, group.width}:
        masks = found.masks(network, scores, {"0": keep})
        left = masked_copy(network, masks)[0].weight
        gone = {index for row in expected for each in _lowest(row, weight, group.width - keep) for index in each}
        zero = {tuple(index) for index in (left == 0).nonzero().tolist()}
        assert zero == gone
        assert len(gone) == len(expected) * (group.width - keep) * len(expected[0][0])
        assert torch.equal(left[left != 0], weight[left != 0])


def _lowest(row: list[list[tuple[int, ...]]], weight: Tensor, count: int) -> list[list[tuple[int, ...]]]:
    means = [float(np.mean([abs(float(weight[index].detach())) for index in each])) for each in row]
    order = sorted(range(len(row)), key=lambda i: (round(means[i], 9), i))
    return [row[i] for i in order[:count]]


def _fresh(module: nn.Module, equal: bool) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
        if equal:
            module.weight.fill_(-0.7)
    return module


def _inputs(module: nn.Module) -> Tensor:
    if isinstance(module, nn.Linear):
        return torch.zeros(2, module.in_features)
    return torch.zeros(2, module.in_channels, *[4] * len(module.kernel_size))


class TestEveryPattern(PatternContract):
    @pytest.fixture(autouse=True, params=[name for name in (*registry.PATTERNS, *PARSED) if name not in WHOLE])
    def _named(self, request: pytest.FixtureRequest) -> None:
        self.pattern = parse_pattern(request.param)


@pytest.mark.parametrize("name", ["2:4", "1:4", "3:7"])
def test_n_of_m_holds_in_every_run(name: str) -> None:
    n, m = map(int, name.split(":"))
    network = nn.Sequential(_fresh(nn.Conv2d(2 * m + 1, 3, 3), equal=False))
    graph, pruner = find_groups(network, _inputs(network[0])), Pruner("plain", MAGNITUDE, parse_pattern(name))
    scores = pruner.estimate_importance(network, graph)
    weight = pruner.find_structures(network, graph).prune(network, scores, {"0": n})[0].weight.detach()
    dense = network[0].weight.detach()
    for run in (slice(0, m), slice(m, 2 * m)):
        assert ((weight[:, run] != 0).sum(1) == n).all()
        assert torch.equal(weight[:, run].abs().amax(1), dense[:, run].abs().amax(1))
    assert torch.equal(weight[:, 2 * m], dense[:, 2 * m])  # what fills no run stays


@pytest.mark.parametrize("what", ["patterns", "schedules", "allocators"])
def test_each_is_listed_with_one_line(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.TABLES[what])
    assert all(len(line.split()) > 2 for line in lines)
