"""How the number of threads is settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits
from torch import Tensor, nn

from autoprune.config import load_experiment
from autoprune.running import threads
from autoprune.running.threads import SingleThreaded, settle_threads


@pytest.fixture(autouse=True)
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def settle(sets: list[str] = (), network: nn.Module | None = None) -> int | None:  # type: ignore[assignment]
    experiment = load_experiment(None, {"budget": "flops=0.5"}, list(sets))
    return settle_threads(experiment, network or nn.Linear(4, 2), torch.ones(2, 4)).run.threads


def pretend(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
    def time(network: nn.Module, batch: Tensor, count: int) -> float:
        return seconds[count]

    monkeypatch.setattr(threads, "_time", time)
    monkeypatch.setattr(torch, "get_num_threads", lambda: max(seconds))


def test_a_number_that_is_given_is_used() -> None:
    assert settle(["run.threads=2"]) == 2
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("many", "chosen"), [(0.5, 8), (0.9, 1), (3.0, 1)])
def test_several_threads_are_taken_only_where_they_are_much_faster(
    monkeypatch: pytest.MonkeyPatch, many: float, chosen: int
) -> None:
    pretend(monkeypatch, {1: 1.0, 8: many})
    assert settle() == chosen


def test_a_network_that_cannot_run_is_left_to_others_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    network = nn.Linear(5, 2).train()
    assert settle(network=network) == 1
    assert network.training


class Counting:
    """A searcher that says how many threads linear algebra takes while it is asked."""

    def ask(self, limit: int) -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_a_searcher_is_asked_with_one_thread_for_its_linear_algebra() -> None:
    searcher: Any = Counting()
    with threadpool_limits(2, user_api="blas"):
        before = searcher.ask(1)
        during = SingleThreaded(searcher).ask()
        after = searcher.ask(1)
    assert set(during) == {1}
    assert before == after
