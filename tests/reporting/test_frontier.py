from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.allocation import Allocation
from autoprune.core.metrics import LOSS
from autoprune.core.trial import Candidate, Failure, Role, Trial
from autoprune.reporting.frontier import frontier, frontier_csv, non_dominated
from tests.scores import ACCURACY, scored


def trial(number: int, loss: float, flops: int, params: int = 0, accuracy: float = 0.5, role: Role = "final") -> Trial:
    candidate = Candidate(number, Allocation({"a": number + 1}), role=role)
    return Trial(candidate, scored(loss, accuracy, 10), {"flops": flops, "params": params})


def dominates(left: list[int], right: list[int]) -> bool:
    return all(a <= b for a, b in zip(left, right, strict=True)) and left != right


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=30))
def test_what_is_left_is_what_a_slow_loop_leaves(points: list[list[int]]) -> None:
    slow = [
        not any(dominates(other, point) for other in points) and point not in points[:i]
        for i, point in enumerate(points)
    ]
    assert non_dominated(np.array(points, dtype=float)).tolist() == slow


def test_a_frontier_goes_from_the_cheapest_to_the_best() -> None:
    trials = [trial(0, 0.2, 90), trial(1, 0.9, 10), trial(2, 0.5, 50), trial(3, 0.6, 60), trial(4, 0.5, 50)]
    assert [t.number for t in frontier(trials, LOSS, ["flops"])] == [1, 2, 0]


def test_each_named_cost_counts() -> None:
    trials = [trial(0, 0.5, 50, params=9), trial(1, 0.5, 60, params=5), trial(2, 0.6, 60, params=5)]
    assert [t.number for t in frontier(trials, LOSS, ["flops"])] == [0]
    assert [t.number for t in frontier(trials, LOSS, ["flops", "params"])] == [0, 1]
    assert [t.number for t in frontier(trials, LOSS, ["params", "flops"])] == [1, 0]


def test_the_objective_counts() -> None:
    trials = [trial(0, 0.5, 50, accuracy=0.6), trial(1, 0.4, 50, accuracy=0.5)]
    assert [t.number for t in frontier(trials, LOSS, ["flops"])] == [1]
    assert [t.number for t in frontier(trials, ACCURACY, ["flops"])] == [0]


@pytest.mark.parametrize("others", [[], [trial(0, 0.1, 5, role="intermediate")]])
def test_failures_and_what_cannot_win_are_left_out(others: list[Trial]) -> None:
    failed = Trial(Candidate(7, Allocation({"a": 1})), Failure("nan", "loss nan"))
    assert frontier([failed, *others], LOSS, ["flops"]) == []
    assert [t.number for t in frontier([failed, *others, trial(8, 0.5, 50)], LOSS, ["flops"])] == [8]


DENSE = {"flops": 200, "params": 30, "size": 400}
TRIALS = [
    Trial(
        Candidate(n, Allocation({"a": n + 1})),
        scored(1.0 - n / 10, n / 10, 50),
        {"flops": 10 * n, "params": n, "size": n},
    )
    for n in (4, 7)
]


def test_the_csv_says_what_is_kept_of_the_dense_network() -> None:
    first, second = csv.DictReader(io.StringIO(frontier_csv(TRIALS, DENSE)))
    assert (first["trial"], second["trial"]) == ("4", "7")
    assert (second["accuracy"], second["samples"]) == ("0.7", "50")
    assert (second["flops"], second["flops_kept"], second["params_kept"]) == ("70", "0.35", "0.233333")


def test_effective_costs_are_called_so() -> None:
    heading = frontier_csv(TRIALS, DENSE, effective=True).splitlines()[0]
    assert heading == (
        "trial,accuracy,loss,samples,effective_flops,effective_flops_kept,effective_params,effective_params_kept,"
        "size,size_kept"
    )
