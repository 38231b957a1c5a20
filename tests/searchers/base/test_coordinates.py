from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.settings import Choice, Range
from autoprune.searchers.base.coordinates import Coordinates, Point, draw_settings, move_settings
from autoprune.searchers.base.moves import draws
from autoprune.searchers.knapsack import standard_starts
from autoprune.testing.problems import depth
from tests.searchers.landscapes import make_problem, with_curves


def test_coordinates_return_to_the_same_widths() -> None:
    problem = make_problem(step=8)
    coordinates = Coordinates(problem)
    for allocation in (problem.space.narrowest(), problem.space.widest(), *standard_starts(problem)):
        point = coordinates.of(allocation)
        assert point.min() >= 0
        assert point.max() <= 1
        assert coordinates.widths(point) == dict(allocation)


def test_removed_branches_have_the_low_end_of_their_coordinates() -> None:
    problem = depth()
    coordinates, space = Coordinates(problem), problem.space
    lead = space.names.index("s1.0.a")
    for allocation in (space.narrowest(), space.widest(), *draws(problem, np.random.default_rng(0), 10)):
        widths = problem.projection.vector(coordinates.widths(coordinates.of(allocation)))
        assert problem.projection.nearest(widths).tolist() == list(allocation.values())
    ends = [coordinates.widths(np.full(len(space.names), place))["s1.0.a"] for place in (0.0, 0.09, 0.11, 1.0)]
    assert ends == [0, 0, space.bounds["s1.0.a"].lowest, 32]
    assert coordinates.of(space.narrowest())[lead] == 0.0


RATE = Range(0.001, 1.0, log=True)
STEPS = Range(20, 60, step=20, integer=True)
DIMENSIONS = {"criterion": Choice(("l1", "l2", "fpgm")), "finetune.rate": RATE, "finetune.steps": STEPS}


def test_points_are_equal_if_widths_and_values_are() -> None:
    allocation = Allocation({"a": 1})
    first = Point(allocation, {"criterion": "l1", "normalise": True})
    assert first == Point(allocation, {"normalise": True, "criterion": "l1"})
    assert hash(first) == hash(Point(allocation, {"normalise": True, "criterion": "l1"}))
    assert first != Point(allocation, {"criterion": "l2", "normalise": True})
    assert first != Point(Allocation({"a": 2}), first.settings)


def test_draws_are_even_over_choices_steps_and_scales() -> None:
    rng = np.random.default_rng(0)
    found = [draw_settings(DIMENSIONS, rng) for _ in range(600)]
    for name, values in (("criterion", ("l1", "l2", "fpgm")), ("finetune.steps", (20, 40, 60))):
        counts = [sum(each[name] == value for each in found) for value in values]
        assert sum(counts) == 600
        assert min(counts) > 160
    assert 260 < sum(float(each["finetune.rate"]) < RATE.at(0.5) for each in found) < 340


def test_a_move_changes_one_setting_to_another_value_inside_its_dimension() -> None:
    rng = np.random.default_rng(0)
    at = {"criterion": "l2", "finetune.rate": 0.9, "finetune.steps": 60}
    changed = []
    for _ in range(300):
        found = move_settings(DIMENSIONS, at, rng)
        (name,) = [name for name in at if found[name] != at[name]]
        assert found[name] in DIMENSIONS[name]
        changed.append((name, found[name]))
    assert {name for name, _ in changed} == set(at)
    assert {value for name, value in changed if name == "criterion"} == {"l1", "fpgm"}


def test_a_move_within_a_range_is_a_near_one() -> None:
    rng = np.random.default_rng(0)
    moves = [move_settings({"finetune.rate": RATE}, {"finetune.rate": RATE.at(0.5)}, rng) for _ in range(300)]
    apart = [abs(RATE.position(each["finetune.rate"]) - 0.5) for each in moves]
    assert 0.05 < float(np.median(apart)) < 0.2


def test_without_settings_nothing_is_drawn() -> None:
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert draw_settings({}, rng) == {}
    assert rng.bit_generator.state == before


def test_coordinates_return_to_the_same_widths_and_settings() -> None:
    problem = with_curves(make_problem())
    problem = replace(
        problem, space=replace(problem.space, settings={"criterion": DIMENSIONS["criterion"], "finetune.rate": RATE})
    )
    coordinates = Coordinates(problem)
    settings = {"criterion": "fpgm", "finetune.rate": 0.1}
    allocation = standard_starts(problem)[0]
    point = coordinates.of(allocation, settings)
    assert len(point) == len(coordinates.names) == len(problem.space.names) + 2
    assert coordinates.choices == {"settings/criterion": 3}
    assert coordinates.widths(point) == dict(allocation)
    assert coordinates.settings(point) == settings
    assert len(coordinates.of(allocation)) == len(problem.space.names)
