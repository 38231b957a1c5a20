from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.sensitivity import (
    Curve,
    SensitivityCurves,
    add_curves,
    choose_curves,
    curves_from_json,
    curves_of_network,
    curves_to_json,
    sweep_grid,
)
from autoprune.core.space import Bounds
from autoprune.errors import UserError
from tests.core.networks import space_of
from tests.scores import ACCURACY, scored


def curves():
    def score(loss, accuracy):
        return scored(loss, accuracy, 100)

    levels = {
        "a": {2: score(1.4, 0.5), 4: score(1.7, 0.45), 6: score(0.9, 0.85), 8: score(1.1, 0.75)},
        "b": {1: score(1.2, 0.7)},
    }
    return SensitivityCurves(score(1.0, 0.8), levels, {"a": 10, "b": 4}, {"checkpoint": "x", "samples": 100})


def test_degradation_worked_by_hand_is_monotone_and_never_negative():
    curve = curves().curve("a")
    assert curve.widths.tolist() == [2, 4, 6, 8, 10]
    np.testing.assert_allclose(curve.worse, [0.7, 0.7, 0.1, 0.1, 0.0])


def test_the_removal_of_a_branch_may_be_better_than_what_little_of_it_could_stay() -> None:
    levels = {"a": {**curves().levels["a"], 0: scored(1.2, 0.7, 100)}}
    curve = replace(curves(), levels=levels).curve("a")
    assert curve.widths.tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(curve.worse, [0.2, 0.7, 0.7, 0.1, 0.1, 0.0])


def test_where_a_branch_may_be_removed_a_grid_begins_with_that_and_the_narrowest_width() -> None:
    bounds = {"a": Bounds(4, 16, removable=True), "b": Bounds(1, 1, removable=True)}
    assert sweep_grid(space_of(bounds, {"a": 16, "b": 1}), 4) == {"a": [0, 4, 8, 12], "b": [0]}


def test_degradation_of_the_accuracy_worked_by_hand():
    np.testing.assert_allclose(curves().curve("a", ACCURACY).worse, [0.35, 0.35, 0.05, 0.05, 0.0])


def test_degradation_is_linear_between_levels() -> None:
    values = [curves().curve("a").at(width) for width in (2, 5, 9, 10)]
    np.testing.assert_allclose(values, [0.7, 0.4, 0.05, 0.0])


def test_below_the_narrowest_level_a_curve_goes_on_with_its_last_slope() -> None:
    curve = Curve(np.array([4, 6, 10]), np.array([0.9, 0.5, 0.0]))
    np.testing.assert_allclose(curve.at([0, 3, 4, 5, 8, 10]), [1.7, 1.1, 0.9, 0.7, 0.25, 0.0])
    one_level = Curve(np.array([4, 10]), np.array([0.6, 0.0]))
    np.testing.assert_allclose(one_level.at([2, 1]), [0.8, 0.9])


def test_noise_that_flattens_the_last_segment_makes_nothing_below_it_free() -> None:
    assert curves().curve("a").at(1) == pytest.approx(0.7 + 0.7 / 8)


@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(0, 5)), min_size=1, max_size=6, unique_by=lambda point: point[0]),
    st.integers(0, 64),
)
def test_a_narrower_width_is_never_better(points: list[tuple[int, float]], width: int) -> None:
    levels = {kept: scored(loss, 0.5, 10) for kept, loss in points}
    swept = SensitivityCurves(scored(1.0, 0.8, 10), {"a": levels}, {"a": 65})
    assert swept.curve("a").at(width) >= swept.curve("a").at(width + 1) >= 0.0
    if swept.curve("a").at(64) > 0:
        assert swept.curve("a").at(0) > swept.curve("a").at(min(levels))


def test_a_group_that_was_not_swept_does_not_degrade():
    bare = SensitivityCurves(scored(1.0, 0.8, 10), {}, {"a": 10})
    assert bare.curve("a").at(1) == 0.0


@pytest.mark.parametrize("work", [{}, {"work": 7, "naive_work": 9}])
def test_json_round_trip_is_exact(work):
    swept = replace(curves(), **work)
    back = SensitivityCurves.from_json(json.loads(json.dumps(swept.to_json())))
    assert back == swept
    assert set(work) == {"work", "naive_work"} & set(swept.to_json())


def test_csv_lists_every_level_and_the_dense_width():
    lines = curves().to_csv().splitlines()
    assert lines[0] == "group,width,kept,loss,accuracy,samples"
    assert lines[1] == "a,10,2,1.4,0.5,100"
    assert lines[5] == "a,10,10,1.0,0.8,100"
    assert [line.split(",")[2] for line in lines[1:]] == ["2", "4", "6", "8", "10", "1", "4"]


def test_the_grid_is_even_from_the_floor_and_leaves_out_the_dense_width():
    space = space_of({"a": Bounds(2, 16), "b": Bounds(8, 32, 8), "c": Bounds(4, 4), "d": Bounds(2, 6)}, {"d": 8})
    assert sweep_grid(space, 4) == {"a": [2, 6, 9, 12], "b": [8, 16, 24], "c": [], "d": [2, 3, 4, 6]}
    assert sweep_grid(space, 1)["a"] == [2]


WANTED = {
    "task": "digits",
    "model": "net",
    "checkpoint": "abc",
    "data": "d",
    "pruner": "l1_filter",
    "scoring": {"criterion": "l1"},
    "samples": 100,
    "recipe": {"recalibrate": 512},
    "seed": 0,
}


def measured(samples: int = 100, groups: tuple[str, ...] = ("a", "b"), **fingerprint: Any) -> SensitivityCurves:
    levels = {group: {2: scored(1.4, 0.5, samples)} for group in groups}
    return SensitivityCurves(scored(1.0, 0.8, samples), levels, {"a": 10, "b": 4}, {**WANTED, **fingerprint})


FPGM = measured(pruner="fpgm", scoring={"criterion": "fpgm"})
ELSEWHERE = measured(checkpoint="xyz")


def test_json_round_trip_keeps_every_scoring() -> None:
    found = (measured(), FPGM)
    assert curves_from_json(json.loads(json.dumps(curves_to_json(found))), "f.json") == found


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("curves"),
        lambda data: data.pop("format"),
        lambda data: data.update(format="new"),
        lambda data: data.update(curves=7),
        lambda data: data["curves"][0].pop("fingerprint"),
        lambda data: data["curves"][0].update(levels=[1]),
        lambda data: data["curves"][0].update(dense={"loss": 1.0}),
        lambda data: data["curves"][0]["levels"]["a"].update(
            wide={"loss": 1.0, "metrics": {"accuracy": 0.5}, "samples": 3}
        ),
    ],
)
def test_json_that_holds_no_curves_is_refused_by_name(damage: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(json.dumps(curves_to_json([measured()])))
    damage(data)
    with pytest.raises(UserError, match=r"curves\.json (holds no sensitivity curves|has sensitivity format new)"):
        curves_from_json(data, "curves.json")


def test_json_of_a_newer_format_is_refused() -> None:
    with pytest.raises(UserError, match="format 3; this release reads 1"):
        curves_from_json({**curves_to_json([measured()]), "format": 3}, "f.json")


ONE, BOTH = space_of({"a": Bounds(1, 10)}), space_of({"a": Bounds(1, 10), "b": Bounds(1, 4)})


def test_the_curves_that_fit_are_chosen_whatever_their_seed_and_number_of_samples() -> None:
    many = measured(samples=500, seed=3)
    assert choose_curves([FPGM, many, measured(), ELSEWHERE], WANTED, ONE, "f.json") is many
    first, last = measured(), measured(seed=1)
    assert choose_curves([first, last], WANTED, ONE, "f.json") is last


def test_curves_of_all_groups_go_before_those_on_more_samples() -> None:
    few = measured(samples=500, groups=("a",))
    assert choose_curves([measured(), few], WANTED, BOTH, "f.json") == measured()
    with pytest.raises(UserError, match=r"f\.json has no curve for group b; measure anew"):
        choose_curves([few], WANTED, BOTH, "f.json")


def test_where_a_branch_may_be_removed_curves_have_to_say_what_that_does() -> None:
    removable = replace(ONE, bounds={"a": Bounds(1, 10, removable=True)})
    with pytest.raises(UserError, match=r"f\.json has no curve for group a; measure anew"):
        choose_curves([measured()], WANTED, removable, "f.json")
    whole = replace(measured(), levels={**measured().levels, "a": {0: measured().dense}})
    assert choose_curves([measured(), whole], WANTED, removable, "f.json") is whole


def test_what_does_not_fit_is_named_by_the_nearest_curves() -> None:
    with pytest.raises(UserError, match=r"f\.json was measured with another checkpoint; leave it out"):
        choose_curves([ELSEWHERE], WANTED, ONE, "f.json")
    with pytest.raises(UserError, match=r"another recipe \(the nearest of 2 measurements\)"):
        choose_curves([FPGM, measured(recipe={})], WANTED, ONE, "f.json")
    with pytest.raises(UserError, match="holds no sensitivity curves"):
        choose_curves([], WANTED, ONE, "f.json")


def test_new_curves_take_the_place_of_those_measured_in_the_same_way_only() -> None:
    new = replace(measured(), work=5)
    assert add_curves([measured(), FPGM], new) == (FPGM, new)
    more = measured(samples=500, **{"seed": 1})
    assert add_curves([measured(), FPGM], more) == (measured(), FPGM, more)


def test_curves_of_another_network_or_data_do_not_stay() -> None:
    assert curves_of_network([measured(), FPGM, ELSEWHERE, measured(data="e")], WANTED) == (measured(), FPGM)
