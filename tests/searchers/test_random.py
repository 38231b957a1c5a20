from __future__ import annotations

from dataclasses import replace

from autoprune.searchers.controls import Random
from tests.searchers.landscapes import make_problem

PROBLEM = make_problem()


def test_a_draw_depends_on_the_seed_and_the_number_alone() -> None:
    told, untold = Random(PROBLEM), Random(PROBLEM)
    assert list(told.ask(3)) + list(told.ask(2)) == list(untold.ask(5))


def test_draws_spread_over_the_space() -> None:
    found = Random(replace(PROBLEM, trials=60)).ask(60)
    for group in PROBLEM.space.groups:
        assert len({candidate.allocation[group.name] for candidate in found}) >= min(group.width // 4, 8)
