from __future__ import annotations

from autoprune.searchers.base.coordinates import Coordinates
from autoprune.searchers.base.warm_started import starts
from tests.searchers.landscapes import make_problem


def test_coordinates_return_to_the_same_widths() -> None:
    problem = make_problem(step=8)
    coordinates = Coordinates(problem)
    for allocation in (problem.space.narrowest(), problem.space.widest(), *starts(problem)):
        point = coordinates.of(allocation)
        assert point.min() >= 0
        assert point.max() <= 1
        assert coordinates.widths(point) == dict(allocation)
