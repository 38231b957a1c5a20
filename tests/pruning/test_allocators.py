from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.space import Group
from autoprune.errors import UserError
from autoprune.pruning.allocators import ABOVE_THRESHOLD, GLOBAL, UNIFORM, Allocator
from autoprune.pruning.surgery.masks import Importance


def group(name: str, width: int, least: int = 1, grain: int = 1) -> Group:
    return Group(name, width, (name,), ("Linear",), least=least, grain=grain)


GROUPS = (group("a", 4), group("b", 3), group("c", 1))
SCORES: Importance = {
    "a": np.array([1.0, 5.0, 1.0, 7.0]),
    "b": np.array([1.0, 2.0, 5.0]),
    "c": np.array([9.0]),
}
MANY = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0, 3.5]), min_size=1, max_size=12), min_size=1, max_size=5
)


def _groups_and_scores(rows: list[list[float]]) -> tuple[list[Group], Importance]:
    groups = [group(f"g{i}", len(row)) for i, row in enumerate(rows)]
    return groups, {f"g{i}": np.array(row) for i, row in enumerate(rows)}


def test_uniform_takes_the_same_share_of_every_group_rounded_down() -> None:
    assert UNIFORM.widths(GROUPS, SCORES, 0.5) == {"a": 2, "b": 2, "c": 1}
    assert UNIFORM.widths(GROUPS, SCORES, 0.0) == {"a": 4, "b": 3, "c": 1}
    assert UNIFORM.widths(GROUPS, SCORES, 1.0) == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    ("removed", "widths"),
    [(0, (4, 3, 1)), (1, (3, 3, 1)), (2, (2, 3, 1)), (3, (2, 2, 1)), (4, (2, 1, 1)), (5, (1, 1, 1)), (8, (1, 1, 1))],
)
def test_ranked_over_layers_of_different_sizes_equal_scores_of_earlier_groups_go_first(
    removed: int, widths: tuple[int, int, int]
) -> None:
    assert tuple(GLOBAL.widths(GROUPS, SCORES, removed / 8).values()) == widths


@given(MANY, st.floats(0, 1))
def test_global_ranking_equals_a_slow_one(rows: list[list[float]], sparsity: float) -> None:
    groups, scores = _groups_and_scores(rows)
    everything = sorted((score, g, i) for g, row in enumerate(rows) for i, score in enumerate(row))
    gone = everything[: math.floor(len(everything) * sparsity + 1e-9)]
    kept = [len(row) - sum(g == owner for _, owner, _ in gone) for g, row in enumerate(rows)]
    assert list(GLOBAL.widths(groups, scores, sparsity).values()) == [max(1, keep) for keep in kept]


@given(MANY, st.floats(0, 1))
def test_the_asked_number_is_removed_in_all_unless_a_group_is_at_its_least(
    rows: list[list[float]], sparsity: float
) -> None:
    groups, scores = _groups_and_scores(rows)
    widths = GLOBAL.widths(groups, scores, sparsity)
    total = sum(map(len, rows))
    removed, asked = total - sum(widths.values()), math.floor(total * sparsity + 1e-9)
    assert removed == asked or (removed < asked and 1 in widths.values())
    assert all(1 <= widths[each.name] <= each.width for each in groups)


@given(MANY, st.floats(0, 4))
def test_what_is_above_the_threshold_stays(rows: list[list[float]], threshold: float) -> None:
    groups, scores = _groups_and_scores(rows)
    kept = [max(1, sum(score > threshold for score in row)) for row in rows]
    assert list(ABOVE_THRESHOLD.widths(groups, scores, threshold).values()) == kept


def test_equal_to_the_threshold_is_not_above_it() -> None:
    assert ABOVE_THRESHOLD.widths(GROUPS, SCORES, 5.0) == {"a": 1, "b": 1, "c": 1}
    assert ABOVE_THRESHOLD.widths(GROUPS, SCORES, 4.99) == {"a": 2, "b": 1, "c": 1}


def test_a_pattern_keeps_its_least_and_its_multiples_while_a_searchs_steps_do_not_matter() -> None:
    groups = (group("two of four", 4, least=2, grain=2), group("three of seven", 7, least=3), group("fine", 1000, 1, 4))
    scores = {each.name: np.zeros(each.width) for each in groups}
    assert tuple(UNIFORM.widths(groups, scores, 0.26).values()) == (4, 6, 740)
    assert tuple(UNIFORM.widths(groups, scores, 0.501).values()) == (2, 4, 499)
    assert tuple(UNIFORM.widths(groups, scores, 1.0).values()) == (2, 3, 1)


@pytest.mark.parametrize("allocator", [GLOBAL, ABOVE_THRESHOLD], ids=lambda allocator: allocator.name)
def test_n_of_m_cannot_be_ranked_over_layers(allocator: Allocator) -> None:
    with pytest.raises(UserError, match=r"group 'a' keeps the same number of every few weights \(N:M\)"):
        allocator.widths([group("a", 4, 2, 2)], {"a": np.zeros((3, 4))}, 0.5)


@pytest.mark.parametrize("number", [-0.1, 1.1, math.nan, math.inf])
@pytest.mark.parametrize("allocator", [UNIFORM, GLOBAL], ids=lambda allocator: allocator.name)
def test_a_number_that_is_no_sparsity_is_refused(allocator: Allocator, number: float) -> None:
    with pytest.raises(UserError, match="takes a sparsity from 0 to 1, not"):
        allocator.widths(GROUPS, SCORES, number)


@pytest.mark.parametrize("number", [-0.1, math.nan, math.inf])
def test_a_number_that_is_no_threshold_is_refused(number: float) -> None:
    with pytest.raises(UserError, match="takes a threshold of at least 0, not"):
        ABOVE_THRESHOLD.widths(GROUPS, SCORES, number)
    assert ABOVE_THRESHOLD.widths(GROUPS, SCORES, 100)["a"] == 1
