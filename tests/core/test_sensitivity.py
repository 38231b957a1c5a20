import json

import numpy as np
import pytest

from autoprune.core.sensitivity import SensitivityCurves, sweep_grid
from autoprune.core.space import Bounds
from autoprune.core.trial import Score
from autoprune.errors import UserError
from tests.core.networks import space_of


def curves():
    def score(loss, accuracy):
        return Score(loss, accuracy, 100)

    levels = {
        "a": {2: score(1.4, 0.5), 4: score(1.7, 0.45), 6: score(0.9, 0.85), 8: score(1.1, 0.75)},
        "b": {1: score(1.2, 0.7)},
    }
    return SensitivityCurves(score(1.0, 0.8), levels, {"a": 10, "b": 4}, {"checkpoint": "x", "images": 100})


def test_degradation_worked_by_hand_is_monotone_and_never_negative():
    widths, worse = curves().degradation("a")
    assert widths.tolist() == [2, 4, 6, 8, 10]
    np.testing.assert_allclose(worse, [0.7, 0.7, 0.1, 0.1, 0.0])


def test_degradation_of_the_accuracy_worked_by_hand():
    np.testing.assert_allclose(curves().degradation("a", "accuracy")[1], [0.35, 0.35, 0.05, 0.05, 0.0])


def test_degradation_is_linear_between_levels_and_constant_below_them():
    values = [curves().at("a", width) for width in (1, 2, 5, 9, 10)]
    np.testing.assert_allclose(values, [0.7, 0.7, 0.4, 0.05, 0.0])


def test_a_group_that_was_not_swept_does_not_degrade():
    bare = SensitivityCurves(Score(1.0, 0.8, 10), {}, {"a": 10})
    assert bare.at("a", 1) == 0.0


def test_json_round_trip_is_exact():
    back = SensitivityCurves.from_json(json.loads(json.dumps(curves().to_json())))
    assert back == curves()


def test_csv_lists_every_level_and_the_dense_width():
    lines = curves().to_csv().splitlines()
    assert lines[0] == "group,width,kept,loss,accuracy,images"
    assert lines[1] == "a,10,2,1.4,0.5,100"
    assert lines[5] == "a,10,10,1.0,0.8,100"
    assert [line.split(",")[2] for line in lines[1:]] == ["2", "4", "6", "8", "10", "1", "4"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("levels"),
        lambda data: data.pop("format"),
        lambda data: data.update(levels=[1]),
        lambda data: data.update(dense={"loss": 1.0}),
        lambda data: data["levels"]["a"].update(wide={"loss": 1.0, "accuracy": 0.5, "images": 3}),
    ],
)
def test_json_that_holds_no_curves_is_refused_by_name(damage):
    data = curves().to_json()
    damage(data)
    with pytest.raises(UserError, match=r"curves\.json holds no sensitivity curves"):
        SensitivityCurves.from_json(data, "curves.json")


def test_json_of_a_newer_format_is_refused():
    with pytest.raises(UserError, match="format 2; this release reads 1"):
        SensitivityCurves.from_json({**curves().to_json(), "format": 2})


def test_the_grid_is_even_from_the_floor_and_leaves_out_the_dense_width():
    space = space_of({"a": Bounds(2, 16), "b": Bounds(8, 32, 8), "c": Bounds(4, 4), "d": Bounds(2, 6)}, {"d": 8})
    assert sweep_grid(space, 4) == {"a": [2, 6, 9, 12], "b": [8, 16, 24], "c": [], "d": [2, 3, 4, 6]}
    assert sweep_grid(space, 1)["a"] == [2]
