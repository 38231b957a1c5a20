"""What every criterion and every pruner must do, as tests to inherit."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from autoprune.errors import UserError
from autoprune.graph.costs import count_params, measure_costs
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.criteria.base import Criterion
from autoprune.pruning.patterns import FILTER, Pattern
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.pruning.structures import Structures
from autoprune.pruning.surgery.masks import Importance, build_masks, choose_kept, top_k_mask
from autoprune.pruning.surgery.thinning import thin
from autoprune.pruning.weight_uses import measure_effective

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)), torch.arange(4)) for i in (1, 2)]


class Residual(nn.Module):
    """Three convolutions with batch norm, two of them in a residual block, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.norm1 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.outer, self.norm2 = nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps `[batch, 3, height, width]` to `[batch, 5]` logits."""
        stream = F.relu(self.norm(self.stem(inputs)))
        branch = self.norm2(self.outer(F.relu(self.norm1(self.inner(stream)))))
        logits: Tensor = self.head(F.relu(stream + branch).mean((2, 3)))
        return logits


def residual_network(seed: int = 0) -> nn.Module:
    """Returns a network with nothing trivial in it: all parameters and running statistics are drawn."""
    network, generator = Residual(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn * 0.5 + 0.3)
    return network


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns a scalar loss, `[]`, of all outputs, in which every class has another weight.

    Args:
        outputs: `[batch, …]`, or nested tuples and dictionaries of such.
        targets: `[batch]` class numbers.
    """
    return torch.stack(
        [(leaf - targets.view(-1, *[1] * (leaf.dim() - 1))).square().mean() for leaf in tree_leaves(outputs)]
    ).sum()


def importance(pruner: Pruner, network: nn.Module, graph: ChannelGraph, seed: int = 0) -> Importance:
    """Scores a network's structures, with calibration data for criteria that read any.

    Args:
        pruner: whose criterion, pattern and combination of layers are used.
        network: takes `[batch, 3, 8, 8]` inputs.
        graph: what `find_groups` found in it.
        seed: of random draws.
    """
    return pruner.estimate_importance(network, graph, CalibrationData(BATCHES, loss), seed)


def random_widths(structures: Structures) -> Iterator[dict[str, int]]:
    """Yields a few allocations at random, within what the pattern allows."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        yield {
            group.name: int(rng.integers(group.least, group.width + 1)) // group.grain * group.grain or group.least
            for group in structures.groups
        }


class _ScoringContract(ABC):
    """What scores of structures must be."""

    @abstractmethod
    def make_pruner(self) -> Pruner:
        """Returns the pruner under test."""

    def test_every_structure_of_every_group_has_a_finite_score(self) -> None:
        """`[width]` scores of each group (one row for each choice), at least 0."""
        pruner, network = self.make_pruner(), residual_network()
        graph = find_groups(network, INPUTS)
        scores = importance(pruner, network, graph)
        assert {group: values.shape[-1] for group, values in scores.items()} == {
            group.name: group.width for group in pruner.find_structures(network, graph).groups
        }
        assert all(np.isfinite(values).all() and (values >= 0).all() for values in scores.values())

    def test_equal_weights_tie_and_the_lower_index_goes_first(self) -> None:
        """Where all weights are equal, so are all scores of a group, but for drawn ones."""
        pruner, network = self.make_pruner(), residual_network()
        if pruner.criterion.drawn:
            pytest.skip("its scores are drawn")
        with torch.no_grad():
            for module in network.modules():
                for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    tensor.fill_(0.25 if tensor.is_floating_point() else 0)
        scores = importance(pruner, network, find_groups(network, INPUTS))
        assert all(len(set(values.flatten().tolist())) == 1 for values in scores.values())
        for group, values in scores.items():
            count = max(values.shape[-1] // 2, 1)
            stays = top_k_mask(values, count)
            assert not stays[..., :-count].any(), group
            assert stays[..., -count:].all(), group

    def test_a_network_of_zeros_can_be_scored(self) -> None:
        """All zeros score 0, but for drawn scores."""
        pruner, network = self.make_pruner(), residual_network()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        scores = importance(pruner, network, find_groups(network, INPUTS))
        assert all((values == 0).all() or pruner.criterion.drawn for values in scores.values())
        assert all(np.isfinite(values).all() for values in scores.values())

    def test_the_network_is_left_as_it_was(self) -> None:
        """Weights, gradients, modes, frozen parameters and hooks are those from before."""
        network = residual_network().train()
        network.get_submodule("norm2").eval()
        network.get_submodule("inner").requires_grad_(False)
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, 0.5) if parameter.requires_grad else None
        before = copy.deepcopy(network)
        importance(self.make_pruner(), network, find_groups(network, INPUTS))
        assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.state_dict().items())
        for module, was in zip(network.modules(), before.modules(), strict=True):
            assert module.training == was.training
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
        for parameter, old in zip(network.parameters(), before.parameters(), strict=True):
            assert parameter.requires_grad == old.requires_grad
            assert parameter.is_leaf
            assert (parameter.grad is None) == (not parameter.requires_grad)
            assert parameter.grad is None or bool((parameter.grad == 0.5).all())

    def test_scores_follow_the_present_weights(self) -> None:
        """Channels in the opposite order have their scores in the opposite order."""
        pruner = self.make_pruner()
        if not pruner.pattern.coupled:
            pytest.skip("its structures are no channels")
        first_layer, second_layer = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        network = nn.Sequential(first_layer, second_layer).double()
        data = CalibrationData([(inputs.double(), targets) for inputs, targets in BATCHES], loss)
        graph = find_groups(network, INPUTS.double())
        first = pruner.estimate_importance(network, graph, data)["0"]
        assert first_layer.bias is not None
        with torch.no_grad():
            for tensor, dim in ((first_layer.weight, 0), (first_layer.bias, 0), (second_layer.weight, 1)):
                tensor.copy_(tensor.flip(dim))
        second = pruner.estimate_importance(network, graph, data)["0"]
        np.testing.assert_allclose(second, first if pruner.criterion.drawn else first[::-1])

    def test_the_same_seed_gives_the_same_scores_and_only_draws_differ_by_seed(self) -> None:
        """Draws come from the statistics' generator alone; `drawn` says whether there are any."""
        pruner, network = self.make_pruner(), residual_network()
        graph = find_groups(network, INPUTS)
        first = importance(pruner, network, graph)
        torch.manual_seed(99)
        again, other = importance(pruner, network, graph), importance(pruner, network, graph, seed=1)
        assert all(np.array_equal(values, again[group]) for group, values in first.items())
        assert all(np.array_equal(values, other[group]) != pruner.criterion.drawn for group, values in first.items())

    def test_where_data_are_needed_and_missing_the_message_says_so(self) -> None:
        """A criterion that does not read data needs none."""
        pruner, network = self.make_pruner(), residual_network()
        graph = find_groups(network, INPUTS)
        if pruner.criterion.reads_data:
            with pytest.raises(UserError, match="needs training samples and a loss"):
                pruner.estimate_importance(network, graph)
        else:
            assert pruner.estimate_importance(network, graph)

    def test_it_is_described_in_a_line(self) -> None:
        """The first line of what is written on the criterion's score is shown in lists."""
        description = self.make_pruner().criterion.description
        assert description
        assert "\n" not in description


class CriterionContract(_ScoringContract):
    """A criterion scores every structure, is a function of statistics and seed, and leaves the network untouched.

    Attributes:
        criterion: under test.
        pattern: of the structures that it scores.
    """

    criterion: ClassVar[Criterion]
    pattern: ClassVar[Pattern] = FILTER

    def make_pruner(self) -> Pruner:
        """Returns a pruner of this criterion."""
        return Pruner("contract", self.criterion, self.pattern)


class PrunerContract(_ScoringContract):
    """A pruner removes exactly the asked count, costs what was predicted, and scores as a criterion should.

    Attributes:
        pruner: under test.
    """

    pruner: ClassVar[Pruner]

    def make_pruner(self) -> Pruner:
        """Returns the pruner."""
        return self.pruner

    def test_exactly_the_asked_count_is_removed(self) -> None:
        """Of whole channels: the thinned network has lost what the masks set to zero."""
        if not self.pruner.pattern.coupled:
            pytest.skip("it sets weights to zero")
        network = residual_network()
        graph = find_groups(network, INPUTS)
        scores = importance(self.pruner, network, graph)
        for widths in random_widths(self.pruner.find_structures(network, graph)):
            kept = choose_kept(scores, widths)
            assert {group: len(set(stays)) for group, stays in kept.items()} == widths
            assert all(list(stays) == sorted(stays) for stays in kept.values())
            thinned = thin(network, graph, kept)
            assert thinned.get_submodule("inner").out_channels == widths["inner"]
            gone = sum(int((mask == 0).sum()) for mask in build_masks(network, graph, kept).values())
            assert count_params(network) - count_params(thinned) == gone

    def test_a_pruned_network_costs_what_was_predicted(self) -> None:
        """The cost table at some widths is what is counted in the network pruned to them."""
        network = residual_network()
        graph = find_groups(network, INPUTS)
        scores, structures = importance(self.pruner, network, graph), self.pruner.find_structures(network, graph)
        table = structures.cost_table(network, INPUTS)
        assert table.dense() == measure_costs(network, INPUTS)
        assert table.effective != self.pruner.pattern.coupled
        for widths in random_widths(structures):
            pruned = structures.prune(network, scores, widths, INPUTS)
            assert structures.measure(pruned, INPUTS, scores, widths) == table.costs(widths)
            assert table.costs(widths)["params"] < table.dense()["params"]
            if table.effective:
                assert table.costs(widths) == measure_effective(pruned, INPUTS)

    def test_it_is_described_by_what_was_chosen(self) -> None:
        """Records name each part of it."""
        described = self.pruner.describe()
        assert described["pruner"] == self.pruner.name
        for part in ("criterion", "pattern", "schedule", "allocator"):
            assert described[part] == getattr(self.pruner, part).name
        assert described["combine"] in ("mean", "sum", "max")
