from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.patterns import LAYER
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.training.group_lasso import GroupLasso, Thresholding, l1
from autoprune.pruning.training.masking import Masking
from autoprune.pruning.weight_structures import find_weight_structures
from tests.graph.networks import resnet_b
from tests.pruning.residual import digits_accuracy, fresh_residual, train_on_digits

INPUTS = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
BRANCHES = ("3.*", "4.*", "5.*")


def _network() -> nn.Module:
    """A convolution, one in groups, a transposed one and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


def _network_and_graph() -> tuple[nn.Module, ChannelGraph]:
    network = _network()
    return network, find_groups(network, INPUTS)


def _dense_weights(network: nn.Module) -> Iterator[Tensor]:
    """Each layer's weight as `[out, in, positions]` of a layer without groups: what no group holds is zero."""
    for module in network:
        if isinstance(module, nn.ConvTranspose2d):
            yield module.weight.detach().transpose(0, 1).flatten(2)
        elif isinstance(module, nn.Conv2d):
            out, per_group = module.weight.shape[0] // module.groups, module.weight.shape[1]
            dense = torch.zeros(module.out_channels, module.in_channels, 9)
            for g in range(module.groups):
                rows = slice(g * out, (g + 1) * out)
                dense[rows, g * per_group : (g + 1) * per_group] = module.weight.detach()[rows].flatten(2)
            yield dense
        elif isinstance(module, nn.Linear):
            yield module.weight.detach()[..., None]


def _structures(pattern: str, weight: Tensor) -> Iterator[Tensor]:
    """The structures of one dense weight, one after the other."""
    out, ins, positions = weight.shape
    if pattern in ("filter", "row"):
        yield from (weight[o] for o in range(out))
    elif pattern == "channel":
        yield from (weight[:, i] for i in range(ins))
    elif pattern == "kernel":
        yield from (weight[o, i] for o in range(out) for i in range(ins))
    elif pattern == "column":
        yield from (weight[:, i, p] for i in range(ins) for p in range(positions))
    elif pattern == "element":
        yield from weight.flatten()
    elif pattern == "block_1x1x2":
        yield from (weight[o, i : i + 2, p] for o in range(out) for i in range(0, ins, 2) for p in range(positions))
    else:
        assert pattern == "layer"
        yield weight


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("pattern", ["filter", "row", "channel", "kernel", "column", "element", "block_1x1x2", "layer"])
def test_the_penalty_is_the_sum_of_the_norms_of_all_structures(pattern: str, scaled: bool) -> None:
    network, graph = _network_and_graph()
    found = GroupLasso(network, graph, pattern, 0.3, scale_by_size=scaled).term()
    expected = 0.0
    for weight in _dense_weights(network):
        for structure in _structures(pattern, weight):
            entries = [float(entry) for entry in structure.flatten() if entry != 0]
            size = math.sqrt(len(entries)) if scaled else 1.0
            expected += 0.3 * size * math.sqrt(sum(entry**2 for entry in entries))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_entries_that_fill_no_block_are_not_penalised_and_never_masked() -> None:
    network = nn.Sequential(nn.Linear(5, 3, bias=False))
    graph = find_groups(network, torch.randn(2, 5))
    penalty = GroupLasso(network, graph, "block_1x1x2", 1.0, thresholding=Thresholding(at=100.0))
    blocks = network[0].weight.detach()[:, :4].reshape(-1, 2)
    assert float(penalty.term().detach()) == pytest.approx(sum(math.hypot(*block) for block in blocks.tolist()))
    assert penalty.finish()["0.weight"].tolist() == [[False] * 4 + [True]] * 3


def test_filters_are_each_layers_own_where_several_share_channels() -> None:
    network = resnet_b()
    graph = find_groups(network, torch.randn(2, 3, 8, 8))
    penalty = GroupLasso(network, graph, "filter", 2.0, layers=("0.1.conv3", "0.1.down.0"))
    own = [network.get_submodule(name).weight.detach() for name in ("0.1.conv3", "0.1.down.0")]
    expected = 2 * sum(float(weight[o].norm()) for weight in own for o in range(16))
    assert float(penalty.term().detach()) == pytest.approx(expected, rel=1e-6)


def test_only_layers_that_match_are_penalised() -> None:
    network, graph = _network_and_graph()
    penalty = GroupLasso(network, graph, "layer", 1.0, layers=("[03]", "9"))
    assert float(penalty.term().detach()) == pytest.approx(
        sum(float(network[i].weight.detach().norm()) for i in (0, 3, 9))
    )
    with pytest.raises(UserError, match=r"'conv7' matches no group that can be pruned; .*there are 0, 3, 5, 9"):
        GroupLasso(network, graph, "layer", 1.0, layers=("conv7",))


@pytest.mark.parametrize("pattern", ["filter", "element", "layer"])
def test_structures_of_zeros_have_a_gradient_of_zero(pattern: str) -> None:
    network, graph = _network_and_graph()
    with torch.no_grad():
        network[0].weight[2] = 0
        network[3].weight.zero_()
    GroupLasso(network, graph, pattern, 1.0).term().backward()
    assert not network[3].weight.grad.any()
    assert all(bool(network[i].weight.grad.isfinite().all()) for i in (0, 3, 5, 9))
    assert not network[0].weight.grad[2].any()
    assert network[0].weight.grad[1].any()


def test_l1_is_the_sum_of_absolute_weights() -> None:
    network, graph = _network_and_graph()
    expected = 0.2 * sum(float(network[i].weight.detach().abs().sum()) for i in (0, 3))
    assert float(l1(network, graph, 0.2, layers=("0", "3")).term().detach()) == pytest.approx(expected, rel=1e-6)


def _two_by_two(*entries: float, **settings: object) -> tuple[nn.Linear, GroupLasso]:
    """A linear layer of the given weights under a group lasso of strength 1 over its two rows."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(entries).view(2, 2))
    graph = find_groups(network, torch.randn(2, 2))
    return network[0], GroupLasso(network, graph, "row", 1.0, **settings)  # type: ignore[arg-type]


def test_the_proximal_step_shortens_every_norm_by_strength_times_rate() -> None:
    layer, penalty = _two_by_two(3, 4, 0.03, 0.04, proximal=True)
    assert penalty.term() is None
    penalty.step(0.5)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[2.7, 3.6], [0, 0]]))
    penalty.step(0.0)
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[2.7, 3.6], [0, 0]]))


def test_the_proximal_step_of_scaled_norms_is_longer_for_larger_structures() -> None:
    layer, penalty = _two_by_two(30, 40, 3, 4, proximal=True, scale_by_size=True)
    penalty.step(2.5 * math.sqrt(2))
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[27.0, 36.0], [0, 0]]))


@pytest.mark.parametrize(
    ("thresholding", "stays"),
    [
        (Thresholding(), [True, False]),  # means of 1.5 and 1 against the strength
        (Thresholding(by="max"), [True, True]),
        (Thresholding(at=1.5), [False, False]),
        (Thresholding(at=2.0, by="max"), [True, False]),
        (Thresholding(at=0.0), [True, True]),
    ],
)
def test_structures_at_or_below_the_threshold_are_masked(thresholding: Thresholding, stays: list[bool]) -> None:
    layer, penalty = _two_by_two(0, -3, 2, 0, thresholding=thresholding)
    masks = penalty.finish()
    if all(stays):
        assert masks == {}
    else:
        assert masks["0.weight"].tolist() == [[each, each] for each in stays]
    assert layer.weight.detach().any(1).tolist() == stays


def test_masks_are_made_every_so_many_steps_and_held_in_between_and_after() -> None:
    layer, penalty = _two_by_two(5, 5, 0.5, 0.5, thresholding=Thresholding(every=3))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    dead = []
    for _ in range(8):
        loss = (layer(torch.eye(2)) - 2).square().sum() + penalty.term()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if len(dead) == 2:
            with torch.no_grad():
                layer.weight[1] = 0.1  # small for the moment
        penalty.step(0.1)
        dead.append(not layer.weight[1].any())
    assert dead == [False, False, True, True, True, True, True, True]
    penalty.finish()
    layer.weight.sum().backward()
    optimizer.step()
    penalty.masking.hold()
    assert not layer.weight[1].any()


def test_a_thresholding_adds_to_the_masks_of_another_pruning() -> None:
    network, graph = _network_and_graph()
    masking = Masking(network)
    Pruning(network, "level", 0.5, inputs=INPUTS, layers=("9",), masking=masking)
    penalty = GroupLasso(network, graph, "layer", 1.0, layers=("0",), masking=masking)
    assert set(penalty.finish()) == {"0.weight"}
    assert set(masking.masks) == {"0.weight", "9.weight"}


def test_a_penalty_goes_on_from_its_state() -> None:
    def trained(network: nn.Module, penalty: GroupLasso, steps: range) -> Masks:
        for step in steps:
            with torch.no_grad():
                network[0].weight[step] = 0.01
            penalty.step(0.1)
        return penalty.masking.masks

    settings = {"thresholding": Thresholding(every=2)}
    network, graph = _network_and_graph()
    whole = copy.deepcopy(network)
    expected = trained(whole, GroupLasso(whole, graph, "filter", 0.03, ("0",), **settings), range(5))
    first = GroupLasso(network, graph, "filter", 0.03, ("0",), **settings)
    trained(network, first, range(3))
    again = GroupLasso(network, graph, "filter", 0.03, ("0",), **settings)
    first.masking.release(first)
    again.load_state_dict(first.state_dict())
    assert again.masking.masks["0.weight"].flatten(1).any(1).tolist() == [False] * 2 + [True] * 6
    found = trained(network, again, range(3, 5))
    assert found["0.weight"].flatten(1).any(1).tolist() == [False] * 4 + [True] * 4
    assert torch.equal(found["0.weight"], expected["0.weight"])
    assert torch.equal(network[0].weight, whole[0].weight)


@pytest.mark.parametrize("strength", [0.0, -1.0, math.nan, math.inf])
def test_a_strength_that_makes_no_sense_is_refused(strength: float) -> None:
    network, graph = _network_and_graph()
    with pytest.raises(UserError, match="strength of a penalty should be a number above 0 but is"):
        GroupLasso(network, graph, "layer", strength)


def test_settings_that_make_no_sense_are_refused() -> None:
    network, graph = _network_and_graph()
    with pytest.raises(UserError, match=r"'2:4' keeps a number of every few weights.* or penalty 'admm'"):
        GroupLasso(network, graph, "2:4", 1.0)
    with pytest.raises(UserError, match="the threshold should be a number of at least 0 but is -1"):
        Thresholding(at=-1)
    with pytest.raises(UserError, match="'mean' or its 'max', not 'median'"):
        Thresholding(by="median")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="1 step or more apart but are 0"):
        Thresholding(every=0)


def test_a_whole_layer_is_a_structure_that_may_go() -> None:
    network, graph = _network_and_graph()
    groups = find_weight_structures(network, graph.flow.inputs, LAYER).groups
    assert [(group.name, group.width, group.least) for group in groups] == [(name, 1, 0) for name in "0359"]


@pytest.mark.parametrize("proximal", [False, True])
def test_group_lasso_over_layers_kills_residual_branches_and_leaves_the_accuracy(proximal: bool) -> None:
    network = fresh_residual()
    graph = find_groups(network, torch.randn(2, 1, 8, 8))
    penalty = GroupLasso(
        network, graph, "layer", 0.006, BRANCHES, scale_by_size=True, proximal=proximal,
        thresholding=Thresholding(every=25),
    )  # fmt: skip
    train_on_digits(network, 200, penalty)
    masks = penalty.finish()
    assert {"5.conv1.weight", "5.conv2.weight"} <= set(masks)
    assert not any(bool(mask.any()) for mask in masks.values())
    assert not any(bool(network.get_parameter(name).any()) for name in masks)
    assert digits_accuracy(network) > 0.88


def test_without_group_lasso_no_layer_dies() -> None:
    network = fresh_residual()
    graph = find_groups(network, torch.randn(2, 1, 8, 8))
    train_on_digits(network, 200, None)
    assert GroupLasso(network, graph, "layer", 0.006, BRANCHES).finish() == {}
    assert digits_accuracy(network) > 0.9
