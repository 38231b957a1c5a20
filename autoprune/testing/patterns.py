"""What every pattern must do, as tests to inherit."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.graph.groups import find_groups
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.magnitudes import MAGNITUDE
from autoprune.pruning.patterns import Pattern
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.surgery.masks import masked_copy

_LAYERS = {
    "wide": (nn.Conv2d, (17, 3, 3), {}),
    "grouped": (nn.Conv2d, (16, 6, 3), {"groups": 2}),
    "depthwise": (nn.Conv2d, (6, 12, 3), {"groups": 6}),
    "1-d": (nn.Conv1d, (8, 4, 3), {}),
    "linear": (nn.Linear, (18, 5), {}),
}


def _layer(module: nn.Conv1d | nn.Conv2d | nn.Linear) -> Layer:
    groups = 1 if isinstance(module, nn.Linear) else module.groups
    kind: Literal["linear", "convolution"] = "linear" if isinstance(module, nn.Linear) else "convolution"
    incoming, outgoing = torch.arange(module.weight.shape[1] * groups), torch.arange(module.weight.shape[0])
    return Layer("0", kind, type(module).__name__, incoming, outgoing, 1, groups)


class PatternContract:
    """A pattern arranges a weight into structures of equal size, each weight in one at most.

    Own patterns set weights to zero: whole channels are `filter`, whole branches `layer`.

    Attributes:
        pattern: under test.
    """

    pattern: ClassVar[Pattern]

    @pytest.fixture(params=_LAYERS)
    def module(self, request: pytest.FixtureRequest) -> nn.Conv2d:
        """Returns a layer with random weights."""
        kind, sizes, options = _LAYERS[request.param]
        found: nn.Conv2d = kind(*sizes, **options)
        with torch.no_grad():
            found.weight.copy_(torch.randn(found.weight.shape, generator=torch.Generator().manual_seed(3)))
        return found

    def _indices(self, module: nn.Conv2d) -> Tensor:
        """Returns `[choices, width, entries]` flat indices into the weight."""
        weight = module.weight
        return self.pattern.arrange(_layer(module), torch.arange(weight.numel()).view(weight.shape))

    def test_it_is_described_and_not_of_whole_channels(self) -> None:
        """It has a line of description, and `least` and `grain` of at least 0 and 1."""
        assert self.pattern.description
        assert "\n" not in self.pattern.description
        assert not self.pattern.coupled
        assert not self.pattern.whole
        assert self.pattern.least >= 0
        assert self.pattern.grain >= 1

    def test_every_weight_belongs_to_at_most_one_structure(self, module: nn.Conv2d) -> None:
        """`arrange` gives `[choices, width, entries]` and moves values without repeating any."""
        indices = self._indices(module)
        assert indices.dim() == 3
        assert len(set(indices.flatten().tolist())) == indices.numel()
        assert self.pattern.arrange(_layer(module), module.weight).shape == indices.shape

    def test_exactly_the_structures_of_least_score_are_zeroed(self, module: nn.Conv2d) -> None:
        """Of each choice as many structures stay as asked, those of greatest magnitude; all other weights stay."""
        network = nn.Sequential(module)
        shape = (2, 18) if isinstance(module, nn.Linear) else (2, module.in_channels, *[4] * len(module.kernel_size))
        graph = find_groups(network, torch.zeros(shape))
        pruner = Pruner("contract", MAGNITUDE, self.pattern, normalise=False)
        found, indices = pruner.find_structures(network, graph), self._indices(module)
        if not found.groups:
            assert indices.numel() == 0 or indices.shape[1] < 2
            return
        [group] = found.groups
        assert (group.width, group.least) == (indices.shape[1], self.pattern.least)
        scores = pruner.estimate_importance(network, graph)
        magnitudes = module.weight.detach().abs().double().flatten()[indices].mean(2).numpy()
        for keep in {group.least, (group.width // 2 + 1) // group.grain * group.grain or group.least, group.width}:
            pruned = masked_copy(network, found.masks(network, scores, {group.name: keep})).get_submodule("0")
            lowest = np.argsort(magnitudes.round(9), axis=1, kind="stable")[:, : group.width - keep]
            gone = {int(i) for row, chosen in zip(indices, lowest, strict=True) for i in row[chosen].flatten()}
            assert isinstance(pruned.weight, Tensor)
            assert {int(i) for i in (pruned.weight.flatten() == 0).nonzero().flatten()} == gone
