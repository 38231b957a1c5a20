from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.errors import UserError
from autoprune.pruning.training.rewinding import EarlyState


def _train(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        optimizer.zero_grad()
        network(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()


def _made() -> tuple[nn.Module, torch.optim.Optimizer, EarlyState]:
    network = nn.Linear(3, 2)
    return network, torch.optim.SGD(network.parameters(), 0.01, momentum=0.9), EarlyState(network)


def test_the_early_state_is_the_network_as_it_was_given_until_another_is_kept() -> None:
    network, optimizer, early = _made()
    given = network.weight.detach().clone()
    early.start(optimizer)
    _train(network, optimizer)
    early.start(optimizer)  # rounds that go on: what belongs to the start is known
    early.restore(optimizer)
    assert torch.equal(network.weight, given)
    assert torch.equal(early.weights["weight"], given)
    assert not optimizer.state


def test_what_is_kept_is_restored_any_number_of_times() -> None:
    network, optimizer, early = _made()
    _train(network, optimizer)
    early.keep(optimizer)
    weight, momentum = network.weight.detach().clone(), optimizer.state[network.weight]["momentum_buffer"].clone()
    early.start(optimizer)
    for _ in range(2):
        _train(network, optimizer)
        assert not torch.equal(network.weight, weight)
        early.restore(optimizer)
        assert torch.equal(network.weight, weight)
        assert torch.equal(optimizer.state[network.weight]["momentum_buffer"], momentum)


def test_it_goes_into_a_checkpoint_and_comes_back() -> None:
    network, optimizer, early = _made()
    _train(network, optimizer)
    early.keep(optimizer)
    again, other, loaded = _made()
    loaded.load_state_dict(early.state_dict())
    assert loaded.kept
    loaded.restore(other)
    assert torch.equal(again.weight, network.weight)


def test_as_many_are_given_back_as_were_kept() -> None:
    _, optimizer, early = _made()
    early.keep()
    with pytest.raises(UserError, match="0 states were kept beside the network's but 1 are given"):
        early.restore(optimizer)
