from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.api import apply
from autoprune.embedding import search_space
from autoprune.errors import TaskError, UserError
from autoprune.graph.costs import measure_costs
from autoprune.graph.groups import find_groups
from autoprune.graph.recording.capture import _Recorder
from autoprune.pruning.patterns import Pattern, parse_pattern
from autoprune.pruning.pruner import LEVEL, RANDOM_FILTER, Pruner
from autoprune.pruning.surgery.masks import Importance
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.weight_structures import STEPS, WeightStructures, find_weight_structures
from autoprune.pruning.weight_uses import measure_effective


class Small(nn.Module):
    """A convolution called twice, one strided, one transposed, a linear layer; shapes worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(4, 4, 3, padding=1)  # 6×6 twice: 72 positions
        self.strided = nn.Conv2d(4, 6, 3, stride=2, groups=2)  # 2×2: 4 positions
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False)  # from 2×2: 4 positions
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.twice(x))))
        return self.fc(F.relu(self.up(F.relu(self.strided(x)))).mean((2, 3)))


POSITIONS = {"twice": 72, "strided": 4, "up": 4, "fc": 1}
WEIGHTS = {"twice": 144, "strided": 108, "up": 96, "fc": 12}
INPUTS = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def _small() -> Small:
    torch.manual_seed(0)
    return Small()


def _found(network: nn.Module, pattern: str = "element", inputs: Tensor = INPUTS) -> WeightStructures:
    return find_weight_structures(network, inputs, parse_pattern(pattern))


def _scores(network: nn.Module, pattern: Pattern, inputs: Tensor = INPUTS) -> Importance:
    return Pruner("x", LEVEL.criterion, pattern, normalise=False).estimate_importance(
        network, find_groups(network, inputs)
    )


def test_effective_costs_are_the_weights_that_stay_at_their_positions() -> None:
    network = _small()
    found = _found(network)
    assert {group.name: group.width for group in found.groups} == WEIGHTS
    table, biases = found.cost_table(network, INPUTS), 4 + 6 + 3
    assert table.effective
    assert table.dense() == measure_costs(network, INPUTS)
    for kept in (WEIGHTS, {"twice": 100, "strided": 7, "up": 96, "fc": 1}, dict.fromkeys(WEIGHTS, 1)):
        assert table.costs(kept)["params"] == sum(kept.values()) + biases
        assert table.costs(kept)["flops"] == sum(2 * POSITIONS[name] * kept[name] for name in WEIGHTS)
        assert table.costs(kept)["size"] == 4 * (sum(WEIGHTS.values()) + biases)


@pytest.mark.parametrize("name", ["element", "kernel", "channel", "row", "column", "block_1x1x2", "1:2"])
def test_a_masked_network_costs_what_was_predicted(name: str) -> None:
    network = _small()
    found, scores = _found(network, name), _scores(network, parse_pattern(name))
    table = found.cost_table(network, INPUTS)
    for share in (0.3, 0.6, 0.999):
        widths = {g.name: max(g.least, g.width - int(g.width * share)) for g in found.groups}
        pruned = found.prune(network, scores, widths)
        assert found.measure(pruned, INPUTS, scores, widths) == table.costs(widths)
        assert measure_effective(pruned, INPUTS) == table.costs(widths)


@pytest.mark.parametrize("pruner", [LEVEL, RANDOM_FILTER], ids=["zeros go first", "zeros go by chance"])
def test_weights_that_are_zero_by_themselves_count_until_they_are_pruned(pruner: Pruner) -> None:
    network = _small()
    with torch.no_grad():
        network.twice.weight[1] = 0
        network.fc.weight.zero_()
    found = _found(network)
    graph = find_groups(network, INPUTS)
    scores = Pruner("x", pruner.criterion, parse_pattern("element")).estimate_importance(network, graph)
    table = found.cost_table(network, INPUTS)
    assert table.dense() == measure_costs(network, INPUTS)
    for keep in (143, 120, 100, 30):
        widths = {"twice": keep, "fc": 5}
        pruned = found.prune(network, scores, widths)
        assert found.measure(pruned, INPUTS, scores, widths) == table.costs(widths)


def test_a_pruned_weight_that_came_back_is_counted() -> None:
    network = _small()
    found, scores = _found(network), _scores(network, parse_pattern("element"))
    pruned = found.prune(network, scores, {"fc": 4})
    predicted = found.cost_table(network, INPUTS).costs({"fc": 4})
    with torch.no_grad():
        pruned.fc.weight += 1
    counted = found.measure(pruned, INPUTS, scores, {"fc": 4})
    assert counted["params"] == predicted["params"] + 8
    assert counted["flops"] == predicted["flops"] + 16


def test_the_network_itself_is_left_as_it_was() -> None:
    network = _small()
    before = copy.deepcopy(network.state_dict())
    found, scores = _found(network), _scores(network, parse_pattern("element"))
    pruned = found.prune(network, scores, {"twice": 1})
    assert int((pruned.twice.weight != 0).sum()) == 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert found.kept_channels(scores, {"twice": 1}) == {}


class Shared(nn.Module):
    """Two layers share a weight, a third has a parametrised one, a fourth is plain."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.plain = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(self.normed(self.second(self.first(x))))


def test_a_weight_that_layers_share_is_one_group() -> None:
    network, inputs = Shared(), torch.randn(2, 4)
    found = _found(network, inputs=inputs)
    assert [group.name for group in found.groups] == ["first", "normed.parametrizations.weight.original1", "plain"]
    table = found.cost_table(network, inputs)
    assert table.dense() == measure_costs(network, inputs)
    assert table.costs({"plain": 3})["flops"] == 2 * (16 + 16 + 16 + 3)
    assert table.costs({"first": 3})["flops"] == 2 * (3 + 3 + 16 + 16)


def test_a_layer_that_holds_no_two_structures_is_no_group() -> None:
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 8, 3), nn.Conv2d(8, 9, 1))
    inputs = torch.randn(2, 3, 6, 6)
    assert [group.name for group in _found(network, "row", inputs).groups] == ["1", "2"]
    assert [group.name for group in _found(network, "channel", inputs).groups] == ["0", "2"]
    assert [group.name for group in _found(network, "block_1x1x8", inputs).groups] == ["2"]
    assert [group.name for group in _found(network, "2:4", inputs).groups] == ["2"]
    assert _found(network, "block_1x1x9", inputs).groups == ()


def test_a_bare_layer_has_a_group_named_by_its_weight() -> None:
    assert [group.name for group in _found(nn.Linear(4, 4), inputs=torch.randn(2, 4)).groups] == ["weight"]


def test_first_and_last_are_told_and_steps_are_few() -> None:
    network = nn.Sequential(nn.Linear(8, 100), nn.Linear(100, 100), nn.Linear(100, 2))
    groups = _found(network, inputs=torch.randn(2, 8)).groups
    assert [(group.first, group.last) for group in groups] == [(True, False), (False, False), (False, True)]
    assert all(group.width / group.grain <= STEPS for group in groups)
    assert [group.grain for group in groups] == [4, 40, 1]


def test_of_n_of_m_the_same_number_goes_in_every_run_whatever_the_scores() -> None:
    network = nn.Sequential(nn.Linear(8, 3))
    found = _found(network, "2:4", torch.randn(2, 8))
    scores = {"0": np.arange(24.0).reshape(6, 4)}
    kept = found.prune(network, scores, {"0": 2})[0].weight != 0
    assert kept.tolist() == [[False, False, True, True] * 2] * 3


def test_an_unknown_group_is_refused() -> None:
    network = _small()
    with pytest.raises(UserError, match=r"pattern 'element' has no group 'nine'; it has twice, strided, up, fc"):
        _found(network).prune(network, {}, {"nine": 3})


class Unfollowable(nn.Module):
    """Cannot run while it is recorded; an embedding, a recurrent layer, a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layers = nn.Embedding(24, 8), nn.LSTM(8, 16, 2, batch_first=True)
        self.own = nn.Parameter(torch.randn(16, 24))

    def forward(self, tokens: Tensor) -> Tensor:
        if isinstance(torch.overrides._get_current_function_mode(), _Recorder):
            raise RuntimeError("not while somebody looks")
        return self.layers(self.embedding(tokens))[0] @ self.own


UNFOLLOWABLE = ["embedding", *(f"layers.weight_{part}_l{i}" for i in (0, 1) for part in ("ih", "hh")), "own"]
TOKENS = torch.randint(20, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["level", "block_1x1x8", "two_four"])
def test_a_network_that_cannot_be_followed_is_pruned_by_its_parameters(name: str) -> None:
    torch.manual_seed(0)
    network = Unfollowable()
    with pytest.raises(TaskError, match="not while somebody looks"):
        find_groups(network, TOKENS)
    space = search_space(network, TOKENS, {"protect": []}, pruner=name)
    assert list(space.groups.names) == UNFOLLOWABLE
    assert space.costs.dense() == measure_costs(network, TOKENS)
    halves = {group.name: group.width // 2 for group in space.groups.groups}
    pruned = apply(network, halves, inputs=TOKENS, pruner=name)
    assert measure_effective(pruned, TOKENS) == space.costs.costs(halves)
    assert {part: int((pruned.get_parameter(part) == 0).sum()) for part in dict(pruned.named_parameters())} == {
        part: parameter.numel() // 2 if parameter.dim() > 1 else 0 for part, parameter in network.named_parameters()
    }


def test_a_space_names_weights_by_their_parameters() -> None:
    rules = {"protect": [], "include": ["*.weight_hh_*", "embedding.weight", "own"], "exclude": ["layers.weight_hh_l1"]}
    space = search_space(Unfollowable(), TOKENS, rules, pruner="level").groups
    assert list(space.names) == ["embedding", "layers.weight_hh_l0", "own"]


def test_masks_hold_while_a_network_that_cannot_be_followed_trains() -> None:
    torch.manual_seed(0)
    network = Unfollowable()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    pruning = Pruning(network, "level", {"layers.weight_hh_*": 0.5, "own": 0.75}, inputs=TOKENS)
    for _ in range(3):
        optimizer.zero_grad()
        network(TOKENS).square().mean().backward()
        optimizer.step()
        pruning.step()
    shares = {name: float((parameter == 0).float().mean()) for name, parameter in network.named_parameters()}
    assert shares["layers.weight_hh_l0"] == shares["layers.weight_hh_l1"] == 0.5
    assert shares["own"] == 0.75
    assert shares["layers.weight_ih_l0"] == 0
