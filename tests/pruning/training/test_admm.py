from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.patterns import FILTER, with_depth
from autoprune.pruning.surgery.masks import choose_kept, masked_copy
from autoprune.pruning.surgery.thinning import thin
from autoprune.pruning.training.admm import Admm
from tests.graph.contract import randomise
from tests.graph.networks import resnet_b
from tests.pruning.residual import digits_accuracy, fresh_residual, train_on_digits

INPUTS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def _two_weights(sparsity: float = 0.5, **settings: float) -> tuple[nn.Parameter, Admm]:
    """The weights (3, 1) of one linear layer, of which by default one stays."""
    network = nn.Sequential(nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, 1.0]]))
    graph = find_groups(network, torch.randn(2, 2))
    return network[0].weight, Admm(network, graph, "element", sparsity, **settings)  # type: ignore[arg-type]


def _distance(weights: Mapping[str, Tensor], admm: Admm) -> float:
    """‖W − Z‖ over all weights that are drawn."""
    projected = admm.state_dict()["projected"]
    return math.sqrt(sum(float((weights[name].detach() - tensor).square().sum()) for name, tensor in projected.items()))


def _kept(admm: Admm) -> Mapping[str, Sequence[int]]:
    return choose_kept(admm.importance(), admm.widths)


def _step_down(weight: nn.Parameter, admm: Admm) -> float:
    """A step of rate 0.5 on ½‖W − (2, 2)‖² and the penalty; the penalty before it."""
    term = admm.term()
    weight.grad = None
    ((weight - 2).square().sum() / 2 + term).backward()
    with torch.no_grad():
        weight -= 0.5 * weight.grad
    admm.step(0.5)
    return float(term.detach())


def test_the_steps_agree_with_two_weights_worked_by_hand() -> None:
    weight, admm = _two_weights(rho=1, frequency=1)
    state = admm.state_dict
    assert state()["projected"]["0.weight"].tolist() == [[3, 0]]
    assert state()["dual"]["0.weight"].tolist() == [[0, 0]]
    # Gradient (1, −1) + (0, 1), so W = (2.5, 1); Z = (2.5, 0) and U = (0, 1).
    assert _step_down(weight, admm) == 0.5
    assert weight.tolist() == [[2.5, 1]]
    assert state()["projected"]["0.weight"].tolist() == [[2.5, 0]]
    assert state()["dual"]["0.weight"].tolist() == [[0, 1]]
    assert _distance({"0.weight": weight}, admm) == 1
    # W − Z + U = (0, 2): gradient (0.5, −1) + (0, 2), so W = (2.25, 0.5); U = (0, 1 + 0.5).
    assert _step_down(weight, admm) == 2
    assert weight.tolist() == [[2.25, 0.5]]
    assert state()["projected"]["0.weight"].tolist() == [[2.25, 0]]
    assert state()["dual"]["0.weight"].tolist() == [[0, 1.5]]
    assert _distance({"0.weight": weight}, admm) == 0.5


def test_what_stays_is_chosen_by_weights_and_duals_together() -> None:
    weight, admm = _two_weights(rho=1, frequency=1)
    _step_down(weight, admm)
    with torch.no_grad():
        weight.copy_(torch.tensor([[0.75, 0.5]]))
    admm.update()  # W + U = (0.75, 1.5)
    assert admm.state_dict()["projected"]["0.weight"].tolist() == [[0, 1.5]]
    assert admm.state_dict()["dual"]["0.weight"].tolist() == [[0.75, 0]]
    assert admm.masks()["0.weight"].tolist() == [[True, False]]  # hard pruning goes by the weights alone


@pytest.mark.parametrize(("sparsity", "moved"), [(0.5, (4, 5)), (0.0, (4, 4))])
def test_the_projection_is_a_copy_that_the_weights_do_not_carry_along(sparsity: float, moved: tuple[int, int]) -> None:
    weight, admm = _two_weights(sparsity, rho=1, frequency=100)
    with torch.no_grad():
        weight += 4  # (7, 5) against (3, 0) or (3, 1)
    assert _distance({"0.weight": weight}, admm) == pytest.approx(math.hypot(*moved))
    assert float(admm.term().detach()) == pytest.approx((moved[0] ** 2 + moved[1] ** 2) / 2)
    admm.step(0.1)
    assert _distance({"0.weight": weight}, admm) == pytest.approx(math.hypot(*moved))


def test_the_projection_comes_every_so_many_steps() -> None:
    weight, admm = _two_weights(rho=1, frequency=3)
    seen = []
    for _ in range(7):
        with torch.no_grad():
            weight += 1
        admm.step(0.1)
        seen.append(float(admm.state_dict()["projected"]["0.weight"][0, 0]))
    assert seen == [3, 3, 6, 6, 6, 0, 0]  # by then W + U = (9, 11)


def _coupled() -> tuple[nn.Module, ChannelGraph]:
    network = randomise(resnet_b())
    return network, find_groups(network, INPUTS)


def _slow_norms(layers: list[Tensor]) -> list[float]:
    return [
        math.sqrt(sum(float(weight[o].double().square().sum()) for weight in layers)) for o in range(len(layers[0]))
    ]


def test_a_channel_goes_from_all_layers_that_make_it_or_from_none() -> None:
    network, graph = _coupled()
    group = graph["0.1.conv3"]
    assert len(group.group.producers) == 2
    admm = Admm(network, graph, "filter", widths={group.name: 5})
    weights = [network.get_submodule(name).weight.detach() for name in group.group.producers]
    norms = _slow_norms(weights)
    highest = sorted(sorted(range(16), key=lambda o: norms[o])[-5:])
    projected = admm.state_dict()["projected"]
    assert set(projected) == {f"{name}.weight" for name in group.group.producers}
    for name, weight in zip(group.group.producers, weights, strict=True):
        expected = torch.zeros_like(weight)
        expected[highest] = weight[highest]
        assert torch.equal(projected[f"{name}.weight"], expected)
    assert list(_kept(admm)[group.name]) == highest


def test_channels_that_a_layer_uses_are_left_to_the_end() -> None:
    network, graph = _coupled()
    admm = Admm(network, graph, "filter", 0.5)
    user = network.get_submodule("0.1.conv2").weight.detach()
    projected = admm.state_dict()["projected"]["0.1.conv2.weight"]
    assert int(projected.flatten(1).any(1).sum()) == 4
    assert bool((projected[projected.flatten(1).any(1)] == user[projected.flatten(1).any(1)]).all())
    masks = admm.finish()
    assert int(masks["0.1.conv2.weight"].any(0).flatten(1).any(1).sum()) == 4
    assert int(masks["0.1.bn1.bias"].sum()) == 4


def test_finished_is_thinned() -> None:
    network, graph = _coupled()
    before = copy.deepcopy(network)
    widths = {group.name: 1 + i for i, group in enumerate(graph.groups)}
    admm = Admm(network, graph, "filter", widths=widths)
    masks = admm.finish()
    assert {name: len(stays) for name, stays in _kept(admm).items()} == widths
    thinned = thin(network, graph, _kept(admm), check_on=INPUTS)
    torch.testing.assert_close(thinned.eval()(INPUTS), network.eval()(INPUTS), rtol=1e-4, atol=1e-5)
    expected = masked_copy(before, masks).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("pattern", ["element", "kernel", "channel", "row", "column", "block_1x1x2", "2:4"])
def test_exactly_the_asked_count_is_zero_in_the_projection_and_after_it(pattern: str) -> None:
    network, graph = _coupled()
    admm = Admm(network, graph, pattern, 0.5, layers=("0.1.conv1", "0.2.conv1"))
    dense = sum(network.get_submodule(name).weight.numel() for name in ("0.1.conv1", "0.2.conv1"))
    projected = admm.state_dict()["projected"]
    assert sum(int((weight == 0).sum()) for weight in projected.values()) == dense // 2
    assert sum(int((~mask).sum()) for mask in admm.finish().values()) == dense // 2
    assert all(torch.equal(network.get_parameter(name), weight) for name, weight in projected.items())


def test_sparsities_may_differ_by_group_and_the_rest_is_left_alone() -> None:
    network, graph = _coupled()
    admm = Admm(network, graph, "filter", {"0.1.*": 0.25, "0.1.conv2": 0.75})
    assert admm.widths == {"0.1.conv1": 6, "0.1.conv2": 2, "0.1.conv3": 12}
    assert "0.0.0.weight" not in admm.state_dict()["projected"]


def test_admm_goes_on_from_its_state() -> None:
    weight, whole = _two_weights(rho=0.5, frequency=2)
    other, again = _two_weights(rho=0.5, frequency=2)
    for _ in range(3):
        _step_down(weight, whole)
    with torch.no_grad():
        other.copy_(weight)
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    for _ in range(3):
        assert _step_down(other, again) == _step_down(weight, whole)
    assert torch.equal(other, weight)


def test_settings_that_make_no_sense_are_refused() -> None:
    network, graph = _coupled()
    with pytest.raises(UserError, match="one of both"):
        Admm(network, graph, "filter")
    with pytest.raises(UserError, match="one of both"):
        Admm(network, graph, "filter", 0.5, widths={"0.1.conv1": 3})
    with pytest.raises(UserError, match="there is no group 'conv' to prune"):
        Admm(network, graph, "filter", widths={"conv": 3})
    with pytest.raises(UserError, match="not 0 and 100"):
        Admm(network, graph, "filter", 0.5, rho=0)
    with pytest.raises(UserError, match=r"not 0\.01 and 0"):
        Admm(network, graph, "filter", 0.5, frequency=0)


def test_training_brings_weights_and_projection_together() -> None:
    network = fresh_residual()
    graph = find_groups(network, torch.randn(2, 1, 8, 8))
    train_on_digits(network, 60, None)
    plain = copy.deepcopy(network)
    train_on_digits(plain, 200, None)
    pruned_plain = Admm(plain, graph, "filter", 0.5)
    admm = Admm(network, graph, "filter", 0.5, rho=0.1, frequency=40)
    train_on_digits(network, 200, admm)
    assert _distance(network.state_dict(), admm) < 0.3 * _distance(plain.state_dict(), pruned_plain)
    assert digits_accuracy(network) > 0.85
    admm.finish()
    pruned_plain.finish()
    assert digits_accuracy(network) > digits_accuracy(plain) + 0.2


def test_a_branch_that_is_to_be_removed_is_drawn_to_zero_whole() -> None:
    network = randomise(resnet_b()).eval()
    graph = find_groups(network, INPUTS)
    admm = Admm(network, graph, with_depth(FILTER), widths={"0.1.conv1": 0, "0.1.conv2": 0, "0.2.conv1": 2})
    projected = admm.state_dict()["projected"]
    gone = [name for name, weight in projected.items() if not weight.any()]
    assert gone == ["0.1.conv1.weight", "0.1.conv2.weight"]
    assert int(projected["0.2.conv1.weight"].flatten(1).any(1).sum()) == 2
    assert not any(mask.any() for name, mask in admm.masks().items() if name.startswith("0.1."))
