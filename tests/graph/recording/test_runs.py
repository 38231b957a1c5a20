from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.groups import ChannelGraph, find_groups


class TwoWays(nn.Module):
    """Takes one of two ways from its first layer to its last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.other, self.last = (
            nn.Linear(6, 16),
            nn.Linear(16, 12),
            nn.Linear(16, 12),
            nn.Linear(12, 4),
        )
        self.calls = 0

    def decide(self, x: Tensor) -> bool:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = self.one(x) if self.decide(x) else self.other(x)
        return self.last(F.relu(x))


class ByValue(TwoWays):
    def decide(self, x: Tensor) -> bool:
        return bool(x.mean() > 0)


class ByRareValue(TwoWays):
    def decide(self, x: Tensor) -> bool:
        return bool(x.mean() > 1e6)


class ByPython(TwoWays):
    def decide(self, x: Tensor) -> bool:
        return random.random() < 0.5


class ByCalls(TwoWays):
    def decide(self, x: Tensor) -> bool:
        self.calls += 1
        return self.calls % 2 == 0


class ByRarePython(TwoWays):
    """Draws numbers of Python's, by which it would go another way once in a million runs."""

    def decide(self, x: Tensor) -> bool:
        x.add_(random.random())
        return random.random() < 1e-6


class Noisy(TwoWays):
    def decide(self, x: Tensor) -> bool:
        x.add_(torch.randn_like(x))
        return True


def graph_of(network: nn.Module) -> ChannelGraph:
    torch.manual_seed(0)
    return find_groups(network, torch.rand(4, 6))


def test_what_python_or_earlier_calls_decide_is_seen_and_said() -> None:
    for network in (ByPython(), ByCalls()):
        graph = graph_of(network)
        assert {group.name: group.group.width for group in graph.groups}["first"] == 16
        assert len([group for group in graph.groups if {"one", "other"} <= set(group.group.producers)]) == 1
        assert any("differs between runs" in remark and "test_runs.py:" in remark for remark in graph.remarks)


def test_noise_is_said_with_its_line_and_costs_nothing() -> None:
    graph = graph_of(Noisy())
    assert {group.name for group in graph.groups} == {"first", "one"}
    (remark,) = graph.remarks
    assert "test_runs.py:" in remark
    assert "same random numbers" in remark


def test_channels_around_a_decision_stay_where_a_part_never_ran() -> None:
    for network in (ByRareValue(), ByRarePython()):
        graph = graph_of(network)
        assert not graph.groups
        assert any("no run went through one" in frozen.reason for frozen in graph.frozen)


def test_a_part_that_never_runs_costs_nothing_where_nothing_decides() -> None:
    class Unused(TwoWays):
        def decide(self, x: Tensor) -> bool:
            return True

    assert {group.name for group in graph_of(Unused()).groups} == {"first", "one"}


def test_decisions_inside_one_module_leave_the_others_alone() -> None:
    network = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), ByRareValue(), nn.Linear(4, 5), nn.Linear(5, 3))
    assert {group.name for group in graph_of(network).groups} == {"0", "3"}


def test_the_users_random_numbers_are_not_touched() -> None:
    network = Noisy()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    find_groups(network, torch.ones(2, 6))
    assert torch.equal(torch.rand(3), expected)


class Literal(TwoWays):
    """States a channel count as a number, so that its forward has to be written anew where channels go."""

    def __init__(self, count: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).view(self.count(x), 16)
        return self.last(F.relu(self.one(x)))


@pytest.mark.parametrize("count", [len, lambda x: int(x.shape[0])])
def test_a_plain_number_of_samples_is_never_written_into_a_forward(count: Callable[[Tensor], int]) -> None:
    graph = graph_of(Literal(count))
    assert {group.name for group in graph.groups} == {"one"}
    assert "test_runs.py:" in next(frozen.reason for frozen in graph.frozen if frozen.layer == "first")


def test_tracked_numbers_of_samples_may_be_written() -> None:
    assert {group.name for group in graph_of(Literal(lambda x: x.shape[0])).groups} == {"first", "one"}


def test_a_forward_that_takes_two_ways_is_not_written_anew() -> None:
    class Both(TwoWays):
        def forward(self, x: Tensor) -> Tensor:
            high = bool(x[0, 0] > x[0, 1])
            x = F.relu(self.first(x)).view(x.shape[0], 16)
            return self.last(F.relu(self.one(x) if high else self.other(x)))

    graph = graph_of(Both())
    assert [set(group.group.producers) for group in graph.groups] == [{"one", "other"}]
    assert any("does different things" in frozen.reason for frozen in graph.frozen)
