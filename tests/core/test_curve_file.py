from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autoprune.core.sensitivity import (
    SensitivityCurves,
    beside,
    choose_curves,
    curves_from_json,
    curves_to_json,
    of_network,
)
from autoprune.core.trial import Score
from autoprune.errors import UserError

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
    levels = {group: {2: Score(1.4, 0.5, samples)} for group in groups}
    return SensitivityCurves(Score(1.0, 0.8, samples), levels, {"a": 10, "b": 4}, {**WANTED, **fingerprint})


FPGM = measured(pruner="fpgm", scoring={"criterion": "fpgm"})
ELSEWHERE = measured(checkpoint="xyz")


def test_json_round_trip_keeps_every_scoring() -> None:
    found = (measured(), FPGM)
    assert curves_from_json(json.loads(json.dumps(curves_to_json(found))), "f.json") == found


def test_a_file_of_format_1_holds_the_curves_of_one_scoring() -> None:
    data = {"format": 1, **measured().to_json()}
    assert curves_from_json(data, "f.json") == (measured(),)


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
        lambda data: data["curves"][0]["levels"]["a"].update(wide={"loss": 1.0, "accuracy": 0.5, "samples": 3}),
    ],
)
def test_json_that_holds_no_curves_is_refused_by_name(damage: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(json.dumps(curves_to_json([measured()])))
    damage(data)
    with pytest.raises(UserError, match=r"curves\.json (holds no sensitivity curves|has sensitivity format new)"):
        curves_from_json(data, "curves.json")


def test_json_of_a_newer_format_is_refused() -> None:
    with pytest.raises(UserError, match="format 3; this release reads up to 2"):
        curves_from_json({**curves_to_json([measured()]), "format": 3}, "f.json")


def test_the_curves_that_fit_are_chosen_whatever_their_seed_and_number_of_samples() -> None:
    many = measured(samples=500, seed=3)
    assert choose_curves([FPGM, many, measured(), ELSEWHERE], WANTED, ["a"], "f.json") is many
    first, last = measured(), measured(seed=1)
    assert choose_curves([first, last], WANTED, ["a"], "f.json") is last


def test_curves_of_all_groups_go_before_those_on_more_samples() -> None:
    few = measured(samples=500, groups=("a",))
    assert choose_curves([measured(), few], WANTED, ["a", "b"], "f.json") == measured()
    with pytest.raises(UserError, match=r"f\.json has no curve for group b; measure anew"):
        choose_curves([few], WANTED, ["a", "b"], "f.json")


def test_what_does_not_fit_is_named_by_the_nearest_curves() -> None:
    with pytest.raises(UserError, match=r"f\.json was measured with another checkpoint; leave it out"):
        choose_curves([ELSEWHERE], WANTED, ["a"], "f.json")
    with pytest.raises(UserError, match=r"another recipe \(the nearest of 2 measurements\)"):
        choose_curves([FPGM, measured(recipe={})], WANTED, ["a"], "f.json")
    with pytest.raises(UserError, match="holds no sensitivity curves"):
        choose_curves([], WANTED, ["a"], "f.json")


def test_new_curves_take_the_place_of_those_measured_in_the_same_way_only() -> None:
    new = replace(measured(), work=5)
    assert beside([measured(), FPGM], new) == (FPGM, new)
    more = measured(samples=500, **{"seed": 1})
    assert beside([measured(), FPGM], more) == (measured(), FPGM, more)


def test_curves_of_another_network_or_data_do_not_stay() -> None:
    assert of_network([measured(), FPGM, ELSEWHERE, measured(data="e")], WANTED) == (measured(), FPGM)
