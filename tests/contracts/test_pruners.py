"""What every pruner of the registry promises."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune import registry
from autoprune.cli import main
from autoprune.errors import UserError
from autoprune.graph.costs import count_params, measure_costs, measure_effective
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.pruning.structures.base import Structures
from autoprune.pruning.surgery.masks import Importance, build_masks, choose_kept, top_k_mask
from autoprune.pruning.surgery.thinning import thin
from tests.graph.contract import randomise
from tests.graph.networks import WELL_KNOWN, resnet_b

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)), torch.arange(4)) for i in (1, 2)]


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of any network's outputs, of whatever shape; every class has another weight."""
    return torch.stack(
        [(leaf - targets.view(-1, *[1] * (leaf.dim() - 1))).square().mean() for leaf in tree_leaves(outputs)]
    ).sum()


def _scores(pruner: Pruner, network: nn.Module, graph: ChannelGraph, seed: int = 0) -> Importance:
    return pruner.estimate_importance(network, graph, CalibrationData(BATCHES, _loss), seed)


@pytest.fixture(params=sorted(registry.PRUNERS))
def pruner(request: pytest.FixtureRequest) -> Pruner:
    found: Pruner = registry.resolve("pruner", request.param)
    assert found.name == request.param
    return found


@pytest.fixture
def thinner(pruner: Pruner) -> Pruner:
    """A pruner of whole channels."""
    if not pruner.pattern.coupled:
        pytest.skip("it sets weights to zero")
    return pruner


@pytest.mark.parametrize("name", ["resnet_b", "resnext", "unet_transposed", "mobilenet_v3", "shufflenet_v2_numbers"])
def test_every_structure_of_every_group_has_a_finite_score(pruner: Pruner, name: str) -> None:
    network = randomise(WELL_KNOWN[name].build())
    graph = find_groups(network, INPUTS)
    scores = _scores(pruner, network, graph)
    assert {group: values.shape[-1] for group, values in scores.items()} == {
        group.name: group.width for group in pruner.find_structures(network, graph).groups
    }
    assert all(np.isfinite(values).all() for values in scores.values())
    assert all((values >= 0).all() for values in scores.values())


def _draws(structures: Structures) -> Iterator[dict[str, int]]:
    """Widths at random, within what the pattern allows."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        yield {
            group.name: int(rng.integers(group.least, group.width + 1)) // group.grain * group.grain or group.least
            for group in structures.groups
        }


def test_exactly_the_asked_count_is_removed(thinner: Pruner) -> None:
    network = randomise(resnet_b())
    graph = find_groups(network, INPUTS)
    scores = _scores(thinner, network, graph)
    for widths in _draws(thinner.find_structures(network, graph)):
        kept = choose_kept(scores, widths)
        assert {group: len(set(stays)) for group, stays in kept.items()} == widths
        assert all(list(stays) == sorted(stays) for stays in kept.values())
        thinned = thin(network, graph, kept)
        assert thinned.get_submodule("0.1.conv2").out_channels == widths["0.1.conv2"]
        gone = sum(int((mask == 0).sum()) for mask in build_masks(network, graph, kept).values())
        assert count_params(network) - count_params(thinned) == gone


def test_a_realised_allocation_costs_what_was_predicted(pruner: Pruner) -> None:
    network = randomise(resnet_b())
    graph = find_groups(network, INPUTS)
    scores, structures = _scores(pruner, network, graph), pruner.find_structures(network, graph)
    table = structures.cost_table(network, INPUTS)
    assert table.dense() == measure_costs(network, INPUTS)
    assert table.effective != pruner.pattern.coupled
    for widths in _draws(structures):
        pruned = structures.prune(network, scores, widths, INPUTS)
        assert structures.measure(pruned, INPUTS, scores, widths) == table.costs(widths)
        assert table.costs(widths)["params"] < table.dense()["params"]
        if table.effective:
            assert table.costs(widths) == measure_effective(pruned, find_groups(pruned, INPUTS), INPUTS)


def test_equal_weights_tie_and_the_lower_index_goes_first(pruner: Pruner) -> None:
    if pruner.criterion.drawn:
        pytest.skip("its scores are drawn")
    network = resnet_b()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.25)
    graph = find_groups(network, INPUTS)
    scores = _scores(pruner, network, graph)
    assert all(len(set(values.flatten().tolist())) == 1 for values in scores.values())
    for group, values in scores.items():
        stays = top_k_mask(values, max(values.shape[-1] // 2, 1))
        assert not stays[..., : values.shape[-1] // 2].any(), group
        assert stays[..., values.shape[-1] // 2 :].all(), group


def test_a_network_of_zeros_can_be_scored(pruner: Pruner) -> None:
    network = resnet_b()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    scores = _scores(pruner, network, find_groups(network, INPUTS))
    assert all((values == 0).all() or pruner.criterion.drawn for values in scores.values())
    assert all(np.isfinite(values).all() for values in scores.values())


@pytest.mark.parametrize("name", ["l1_filter", "l2_filter", "taylor"])
def test_a_filter_of_zeros_goes_before_all_others(name: str) -> None:
    network = resnet_b()
    with torch.no_grad():
        network.get_submodule("0.1.conv2").weight[5] = 0
    scores = _scores(registry.resolve("pruner", name), network, find_groups(network, INPUTS))["0.1.conv2"]
    assert int(scores.argmin()) == 5


def test_the_network_is_left_as_it_was(pruner: Pruner) -> None:
    network = resnet_b().train()
    network.get_submodule("0.2").eval()
    network.get_submodule("0.1.conv1").requires_grad_(False)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0.5) if parameter.requires_grad else None
    before = copy.deepcopy(network)
    _scores(pruner, network, find_groups(network, INPUTS))
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


def test_scores_follow_the_present_weights(thinner: Pruner) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)).double()
    batches = [(inputs.double(), targets) for inputs, targets in BATCHES]
    graph = find_groups(network, INPUTS.double())
    first = thinner.estimate_importance(network, graph, CalibrationData(batches, _loss))["0"]
    with torch.no_grad():
        for tensor, dim in ((network[0].weight, 0), (network[0].bias, 0), (network[1].weight, 1)):
            tensor.copy_(tensor.flip(dim))
    second = thinner.estimate_importance(network, graph, CalibrationData(batches, _loss))["0"]
    np.testing.assert_allclose(second, first if thinner.criterion.drawn else first[::-1])


def test_scores_are_those_of_the_network_given(pruner: Pruner) -> None:
    network = randomise(resnet_b())
    graph = find_groups(network, INPUTS)
    twin = randomise(copy.deepcopy(network), seed=5)
    found, expected = _scores(pruner, twin, graph), _scores(pruner, twin, find_groups(twin, INPUTS))
    assert all(np.array_equal(values, expected[group]) for group, values in found.items())


def test_the_same_seed_gives_the_same_scores_and_only_draws_differ_by_seed(pruner: Pruner) -> None:
    network = randomise(resnet_b())
    graph = find_groups(network, INPUTS)
    first = _scores(pruner, network, graph)
    torch.manual_seed(99)
    again, other = _scores(pruner, network, graph), _scores(pruner, network, graph, seed=1)
    assert all(np.array_equal(values, again[group]) for group, values in first.items())
    assert all(np.array_equal(values, other[group]) != pruner.criterion.drawn for group, values in first.items())


def test_a_pruner_that_reads_data_says_so_where_there_are_none(pruner: Pruner) -> None:
    network = resnet_b()
    graph = find_groups(network, INPUTS)
    if pruner.criterion.reads_data:
        with pytest.raises(UserError, match="needs training samples and a loss"):
            pruner.estimate_importance(network, graph)
        with pytest.raises(UserError, match="no samples"):
            pruner.estimate_importance(network, graph, CalibrationData([], _loss))
    else:
        assert pruner.estimate_importance(network, graph)


def test_a_pruner_is_described_by_what_was_chosen(pruner: Pruner) -> None:
    said = pruner.describe()
    assert said["pruner"] == pruner.name
    assert said["criterion"] in registry.CRITERIA
    assert said["pattern"] in registry.PATTERNS
    assert said["schedule"] in registry.SCHEDULES
    assert said["allocator"] in registry.ALLOCATORS
    assert said["combine"] in ("mean", "sum", "max")


@pytest.mark.parametrize(("what", "names"), [("pruners", registry.PRUNERS), ("criteria", registry.CRITERIA)])
def test_each_is_listed_with_one_line(what: str, names: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names)
    assert all(len(line.split()) > 4 and line.endswith(".") for line in lines)
