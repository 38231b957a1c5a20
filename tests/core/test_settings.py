from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.recipe import Finetune, Recipe
from autoprune.core.settings import (
    Choice,
    Range,
    criterion_pattern,
    defaults,
    extreme_recipes,
    format_settings,
    of_scoring,
    own_value,
    resolved,
    with_own,
)
from autoprune.errors import UserError

RANGES = [
    Range(0.003, 0.1, log=True),
    Range(0.0, 1.0),
    Range(0.0, 1.0, step=0.1),
    Range(20, 200, step=20, integer=True),
    Range(20, 205, step=20, integer=True),
    Range(1, 1000, log=True, integer=True),
    Range(0.12345, 0.12355),
]


@given(st.sampled_from(RANGES), st.floats(0, 1))
def test_a_value_lies_in_its_range_and_comes_back_from_its_position(dimension: Range, position: float) -> None:
    value = dimension.at(position)
    assert value in dimension
    assert isinstance(value, int) == dimension.integer
    assert 0 <= dimension.position(value) <= 1
    assert dimension.at(dimension.position(value)) == value


@pytest.mark.parametrize("dimension", RANGES)
def test_both_ends_are_reached_as_far_as_steps_reach(dimension: Range) -> None:
    assert dimension.at(0.0) == dimension.low
    last = 200 if dimension.high == 205 else dimension.high
    assert dimension.at(1.0) == last
    assert dimension.extremes() == (dimension.low, last)


def test_each_of_a_few_values_has_an_equal_share_of_the_places() -> None:
    found = [Range(20, 80, step=20, integer=True).at((i + 0.5) / 100) for i in range(100)]
    assert [found.count(value) for value in (20, 40, 60, 80)] == [25] * 4


def test_a_logarithmic_range_has_its_geometric_mean_in_the_middle() -> None:
    assert Range(0.001, 0.1, log=True).at(0.5) == 0.01
    assert Range(0.001, 0.1).at(0.5) == 0.0505


def test_values_have_four_significant_digits() -> None:
    assert Range(0.003, 0.1, log=True).at(0.3) == 0.00859


def test_what_is_no_value_lies_outside() -> None:
    steps = Range(20, 200, step=20, integer=True)
    assert [value in steps for value in (20, 200, 30, 220, 0, 40.5, True, "40")] == [True] * 2 + [False] * 6
    assert 0.3 in Range(0.0, 1.0, step=0.1)
    assert 0.35 not in Range(0.0, 1.0, step=0.1)
    assert 1 not in Choice((True, False))
    assert True in Choice((True, False))


def test_the_default_is_the_experiments_own_value_or_the_nearest_or_the_first() -> None:
    assert Choice(("l1", "l2"), own="l2").default == "l2"
    assert Choice(("l1", "l2"), own="fpgm").default == "l1"
    assert Choice(("l1", "l2")).default == "l1"
    assert Range(0.003, 0.1, own=0.0234567).default == 0.0234567
    assert Range(0.003, 0.1, own=0.5).default == 0.1
    assert Range(0.003, 0.1).default == 0.003
    assert Range(20, 200, step=20, integer=True, own=55).default == 60
    assert defaults({"a": Choice((1, 2), own=2), "b": Range(0, 1)}) == {"a": 2, "b": 0.0}


def test_settings_are_put_into_the_recipe_and_others_passed_over() -> None:
    recipe = Recipe(512, finetune=Finetune(steps=50, rate=0.02, batch_size=64))
    found = resolved(recipe, {"criterion": "l2", "finetune.rate": 0.1, "finetune.distill": 0.5, "recalibrate": 64})
    assert found == Recipe(64, finetune=Finetune(steps=50, rate=0.1, batch_size=64, distill=0.5))
    assert resolved(recipe, {}) == recipe
    assert resolved(recipe, {"normalise": False}) == recipe


def test_searched_steps_make_a_fine_tuning_where_there_is_none() -> None:
    found = resolved(Recipe(), {"finetune.steps": 30, "finetune.rate": 0.1})
    assert found == Recipe(finetune=Finetune(steps=30, rate=0.1))


def test_a_rate_without_steps_is_refused() -> None:
    with pytest.raises(UserError, match=r"finetune\.rate is searched, but candidates are not fine-tuned"):
        resolved(Recipe(), {"finetune.rate": 0.1})


def test_the_dearest_recipe_is_among_the_extremes() -> None:
    dimensions = {
        "finetune.steps": Range(20, 200, step=20, integer=True),
        "finetune.rate": Range(0.01, 0.1),
        "recalibrate": Choice((64, 512, 128)),
        "criterion": Choice(("l1", "l2")),
    }
    found = extreme_recipes(Recipe(finetune=Finetune(steps=50)), dimensions)
    assert {(each.recalibrate, each.finetune.steps) for each in found if each.finetune} == {
        (samples, steps) for samples in (64, 512, 128) for steps in (20, 200)
    }
    assert extreme_recipes(Recipe(), {}) == [Recipe()]


def test_own_values_come_from_the_recipe() -> None:
    recipe = Recipe(256, finetune=Finetune(steps=50, rate=0.05))
    names = ("recalibrate", "reconstruct", "finetune.rate", "finetune.steps", "criterion")
    assert [own_value(name, recipe) for name in names] == [256, 0, 0.05, 50, None]
    assert own_value("finetune.rate", Recipe()) == 0.02
    assert own_value("finetune.steps", Recipe()) is None
    assert with_own({"finetune.rate": Range(0, 1)}, {"finetune.rate": 0.5})["finetune.rate"].default == 0.5


def test_settings_of_the_scoring_are_told_from_those_of_the_recipe() -> None:
    settings = {"criterion": "l1", "criterion.layer1.*": "l2", "normalise": True, "finetune.rate": 0.1}
    assert of_scoring(settings) == {"criterion": "l1", "criterion.layer1.*": "l2", "normalise": True}
    assert [criterion_pattern(name) for name in settings] == [None, "layer1.*", None, None]
    assert format_settings(settings) == "criterion=l1 criterion.layer1.*=l2 normalise=true finetune.rate=0.1"
