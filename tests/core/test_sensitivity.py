import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.sensitivity import Curve, SensitivityCurves, sweep_grid
from autoprune.core.space import Bounds
from autoprune.core.trial import Score
from tests.core.networks import space_of


def curves():
    def score(loss, accuracy):
        return Score(loss, accuracy, 100)

    levels = {
        "a": {2: score(1.4, 0.5), 4: score(1.7, 0.45), 6: score(0.9, 0.85), 8: score(1.1, 0.75)},
        "b": {1: score(1.2, 0.7)},
    }
    return SensitivityCurves(score(1.0, 0.8), levels, {"a": 10, "b": 4}, {"checkpoint": "x", "samples": 100})


def test_degradation_worked_by_hand_is_monotone_and_never_negative():
    curve = curves().curve("a")
    assert curve.widths.tolist() == [2, 4, 6, 8, 10]
    np.testing.assert_allclose(curve.worse, [0.7, 0.7, 0.1, 0.1, 0.0])


def test_degradation_of_the_accuracy_worked_by_hand():
    np.testing.assert_allclose(curves().curve("a", "accuracy").worse, [0.35, 0.35, 0.05, 0.05, 0.0])


def test_degradation_is_linear_between_levels() -> None:
    values = [curves().at("a", width) for width in (2, 5, 9, 10)]
    np.testing.assert_allclose(values, [0.7, 0.4, 0.05, 0.0])


def test_below_the_narrowest_level_a_curve_goes_on_with_its_last_slope() -> None:
    curve = Curve(np.array([4, 6, 10]), np.array([0.9, 0.5, 0.0]))
    np.testing.assert_allclose(curve.at([0, 3, 4, 5, 8, 10]), [1.7, 1.1, 0.9, 0.7, 0.25, 0.0])
    one_level = Curve(np.array([4, 10]), np.array([0.6, 0.0]))
    np.testing.assert_allclose(one_level.at([2, 1]), [0.8, 0.9])


def test_noise_that_flattens_the_last_segment_makes_nothing_below_it_free() -> None:
    assert curves().at("a", 1) == pytest.approx(0.7 + 0.7 / 8)


@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(0, 5)), min_size=1, max_size=6, unique_by=lambda point: point[0]),
    st.integers(0, 64),
)
def test_a_narrower_width_is_never_better(points: list[tuple[int, float]], width: int) -> None:
    levels = {kept: Score(loss, 0.5, 10) for kept, loss in points}
    swept = SensitivityCurves(Score(1.0, 0.8, 10), {"a": levels}, {"a": 65})
    assert swept.at("a", width) >= swept.at("a", width + 1) >= 0.0
    if swept.at("a", 64) > 0:
        assert swept.at("a", 0) > swept.at("a", min(levels))


def test_a_group_that_was_not_swept_does_not_degrade():
    bare = SensitivityCurves(Score(1.0, 0.8, 10), {}, {"a": 10})
    assert bare.at("a", 1) == 0.0


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
