from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.pruning.training.masking import Masking

MASK = torch.tensor([[True, False, True], [False, True, True]])
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.01, weight_decay=0.01),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1),
}


def _linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.mse_loss(network(torch.randn(8, 3)), torch.randn(8, 2)).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_stay_zero_with_momentum_decay_and_clipped_gradients(name: str) -> None:
    network = _linear()
    optimizer = OPTIMIZERS[name](network.parameters())
    for _ in range(5):  # momentum is there before the masks are
        _step(network, optimizer)
    masking = Masking(network)
    masking.set("me", {"weight": MASK})
    for _ in range(100):
        _step(network, optimizer)
        masking.hold()
        assert (network.weight[~MASK] == 0).all()
    assert (network.weight[MASK] != 0).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_being_held_they_would_move(name: str) -> None:
    network = _linear()
    optimizer = OPTIMIZERS[name](network.parameters())
    _step(network, optimizer)
    masking = Masking(network)
    masking.set("me", {"weight": MASK})
    _step(network, optimizer)  # momentum of the step before
    assert (network.weight[~MASK] != 0).all()
    masking.hold()
    masking.release("me")
    _step(network, optimizer)
    assert (network.weight[~MASK] != 0).all()


def test_gradients_of_masked_weights_are_zero_even_where_they_are_infinite() -> None:
    network = _linear()
    masking = Masking(network)
    masking.set("me", {"weight": MASK})
    network(torch.tensor([[1.0, torch.inf, 1.0]])).nan_to_num().sum().backward()
    assert (network.weight.grad[~MASK] == 0).all()
    (network(torch.ones(1, 3)) * 2).sum().backward()
    assert (network.weight.grad[MASK] != 0).all()


def test_what_is_masked_no_longer_is_what_it_was_when_it_was_masked() -> None:
    network = _linear()
    before = network.weight.detach().clone()
    masking = Masking(network)
    masking.set("me", {"weight": MASK})
    with torch.no_grad():
        network.weight += 1
    masking.hold()
    other = MASK.clone()
    other[0] = torch.tensor([False, True, True])
    masking.set("me", {"weight": other})
    assert network.weight[0].tolist() == pytest.approx([0, float(before[0, 1]), float(before[0, 2]) + 1])
    masking.set("me", {})
    assert network.weight[0].tolist() == pytest.approx((before[0] + torch.tensor([1, 0, 1])).tolist())
    assert masking.masks == {}
    assert not network.weight._backward_hooks


def test_weights_that_were_loaded_are_not_overwritten_by_what_was_remembered() -> None:
    network = _linear()
    masking = Masking(network)
    masking.set("me", {"weight": MASK})
    loaded = torch.full((2, 3), 7.0)
    network.load_state_dict({"weight": loaded, "bias": torch.zeros(2)})
    masking.set("me", {"weight": ~MASK}, recover=False)
    assert torch.equal(network.weight, loaded * ~MASK)


def test_two_owners_hold_together_and_let_go_one_by_one() -> None:
    network = _linear()
    before = network.weight.detach().clone()
    masking = Masking(network)
    left, right = MASK, torch.tensor([[True, True, False], [False, True, True]])
    masking.set("left", {"weight": left})
    masking.set("right", {"weight": right, "bias": torch.tensor([False, True])})
    assert torch.equal(masking.masks["weight"], left & right)
    assert torch.equal(network.weight, before * (left & right))
    assert set(masking.release("left")) == {"weight"}
    assert torch.equal(masking.masks["weight"], right)
    assert torch.equal(network.weight, before * (left & right))  # released weights are zero, and free
    masking.set("right", {})
    assert torch.equal(network.weight, before * (left | ~right))
    assert masking.release("nobody") == {}


def test_a_released_network_is_free_of_hooks_and_a_copy_of_a_masked_one_too() -> None:
    network = _linear()
    masking = Masking(network)
    masking.set("me", {"weight": MASK})
    twin = copy.deepcopy(network)
    assert not twin.weight._backward_hooks
    twin(torch.ones(1, 3)).sum().backward()
    assert (twin.weight.grad != 0).all()
    assert network.weight._backward_hooks
    masking.release("me")
    assert not network.weight._backward_hooks
    assert torch.equal(network.weight == 0, ~MASK)


def test_weights_that_are_not_trained_are_masked_too() -> None:
    network = _linear().requires_grad_(False)
    Masking(network).set("me", {"weight": MASK})
    assert torch.equal(network.weight == 0, ~MASK)


@pytest.mark.parametrize("masks", [{"weight": torch.ones(3, 2, dtype=torch.bool)}, {"no": MASK}], ids=["shape", "name"])
def test_masks_that_do_not_fit_are_refused(masks: dict[str, Tensor]) -> None:
    with pytest.raises(UserError, match=f"a mask does not fit the network's parameter '{next(iter(masks))}'"):
        Masking(_linear()).set("me", masks)


def test_values_on_another_device_are_remembered_on_the_networks() -> None:
    network = nn.Linear(3, 2, device="meta")
    masking = Masking(network)
    masking.set("me", {"weight": MASK})
    masking.remember({"weight": torch.ones(2, 3)})
    assert masking.state_dict()["weight"].device == network.weight.device
    masking.restore()
