from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from autoprune import registry
from autoprune.core.space import Group
from autoprune.errors import UserError
from autoprune.pruning.pruner import FIXED_THRESHOLD, GRADUAL, LEVEL
from autoprune.pruning.schedules import Growth, cubic, linear
from autoprune.pruning.training.targets import Target, amounts_by_group, matching_groups, resolve_target

GROUPS = (
    Group("stem", 10, ("stem",), ("Conv2d",)),
    Group("layer1.conv", 20, ("layer1.conv", "layer2.down"), ("Conv2d", "Conv2d")),
    Group("layer2.conv", 40, ("layer2.conv",), ("Conv2d",), least=2),
)
SCORES = {group.name: np.arange(float(group.width)) for group in GROUPS}


def test_groups_match_by_their_name_or_a_layers() -> None:
    assert [group.name for group in matching_groups(GROUPS, ["layer2.*"])] == ["layer1.conv", "layer2.conv"]
    assert matching_groups(GROUPS, ["*"]) == GROUPS
    assert [group.name for group in matching_groups(GROUPS, ["layer2.conv", "stem"])] == ["stem", "layer2.conv"]


def test_later_numbers_win_and_groups_without_one_are_left_out() -> None:
    assert amounts_by_group(GROUPS, {"layer*": 0.5, "layer2.conv": 0.8}) == {"layer1.conv": 0.5, "layer2.conv": 0.8}


@pytest.mark.parametrize("find", [lambda p: matching_groups(GROUPS, [p]), lambda p: amounts_by_group(GROUPS, {p: 0.5})])
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(find: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match=r"'layer3.conv' matches no group that can be pruned; did you mean 'layer"):
        find("layer3.conv")


def _target(
    curve: Growth,
    amount: float | dict[str, float] | None,
    widths: dict[str, int] | None = None,
    initial: float = 0.0,
) -> Target:
    pruner = replace(LEVEL, schedule=replace(LEVEL.schedule, curve=curve))
    return resolve_target(GROUPS, pruner, amount, widths, initial)[1]


def test_one_number_follows_the_curve() -> None:
    target = _target(linear, 0.8)
    found = [target.widths(SCORES, progress) for progress in (0, 0.5, 1)]
    assert [tuple(widths.values()) for widths in found] == [(10, 20, 40), (6, 12, 24), (2, 4, 8)]


def test_amounts_by_group_start_no_higher_than_they_end() -> None:
    target = _target(linear, {"stem": 0.2, "layer1.conv": 0.5, "layer2.conv": 0.9}, initial=0.5)
    assert tuple(target.widths(SCORES, 0).values()) == (8, 10, 20)
    assert tuple(target.widths(SCORES, 1).values()) == (8, 10, 4)


def test_given_widths_are_reached_exactly_on_the_curve() -> None:
    target = _target(cubic, None, {"stem": 3, "layer1.conv": 20, "layer2.conv": 7})
    assert tuple(target.widths(SCORES, 0).values()) == (10, 20, 40)
    assert tuple(target.widths(SCORES, 0.5).values()) == (10 - 6, 20, 40 - 28)  # 7/8 of 7 and of 33
    assert target.widths(SCORES, 1) == {"stem": 3, "layer1.conv": 20, "layer2.conv": 7}


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ({"sten": 3}, "there is no group 'sten' to prune; did you mean 'stem'"),
        ({"stem": 0}, "group 'stem' keeps 1 to 10 structures, not 0"),
        ({"stem": 11}, "group 'stem' keeps 1 to 10 structures, not 11"),
        ({"layer2.conv": 1}, "group 'layer2.conv' keeps 2 to 40 structures, not 1"),
    ],
    ids=str,
)
def test_widths_that_do_not_fit_are_refused(widths: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve_target(GROUPS, LEVEL, None, widths, 0.0)


def test_only_what_is_named_is_pruned() -> None:
    assert [group.name for group in resolve_target(GROUPS, LEVEL, None, {"stem": 3}, 0.0)[0]] == ["stem"]
    assert [group.name for group in resolve_target(GROUPS, LEVEL, {"layer*": 0.5}, None, 0.0)[0]] == [
        "layer1.conv",
        "layer2.conv",
    ]
    assert resolve_target(GROUPS, LEVEL, 0.5, None, 0.0)[0] == GROUPS


@pytest.mark.parametrize(("amount", "widths"), [(None, None), (0.5, {"stem": 3})], ids=["neither", "both"])
def test_either_an_amount_or_widths_are_given(amount: float | None, widths: dict[str, int] | None) -> None:
    with pytest.raises(UserError, match=r"needs an amount .* or the widths to prune to: one of both"):
        resolve_target(GROUPS, LEVEL, amount, widths, 0.0)


@pytest.mark.parametrize("amount", [1.5, -0.1, {"stem": 0.5, "layer1.conv": 1.5}], ids=str)
def test_an_amount_out_of_range_is_refused_before_any_training(amount: float | dict[str, float]) -> None:
    with pytest.raises(UserError, match="takes a sparsity from 0 to 1, not"):
        resolve_target(GROUPS, GRADUAL, amount, None, 0.0)
    with pytest.raises(UserError, match="takes a threshold of at least 0, not -1"):
        resolve_target(GROUPS, FIXED_THRESHOLD, -1.0, None, 0.0)


def test_a_pruning_does_not_start_with_more_than_it_ends_with() -> None:
    with pytest.raises(UserError, match=r"starts with less than it ends with, not at 0\.6 and then 0\.5"):
        resolve_target(GROUPS, GRADUAL, 0.5, None, 0.6)


def test_a_sparsity_that_leaves_all_of_every_run_is_refused() -> None:
    pruner = registry.resolve("pruner", "two_four")
    groups = (Group("conv", 4, ("conv",), ("Conv2d",), least=2, grain=2),)
    with pytest.raises(UserError, match=r"'2:4' removes 0\.5 of a weight or nothing; a sparsity of 0\.3 leaves"):
        resolve_target(groups, pruner, 0.3, None, 0.0)
    with pytest.raises(UserError, match="leaves all of 'conv'"):
        resolve_target(groups, pruner, {"conv": 0.3}, None, 0.0)
    assert resolve_target(groups, pruner, 0.5, None, 0.0)[0] == groups
    assert resolve_target(groups, pruner, 0.0, None, 0.0)[0] == groups
