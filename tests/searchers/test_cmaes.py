from __future__ import annotations

from autoprune.searchers.cmaes import FACTOR, CmaEs, multiplied
from autoprune.searchers.knapsack import standard_starts
from tests.searchers.landscapes import make_problem, with_curves


def test_multipliers_stay_within_their_factor_of_the_centre() -> None:
    problem = make_problem()
    centre = standard_starts(problem)[0]
    assert multiplied(centre, dict.fromkeys(centre, 0.5)) == dict(centre)
    assert multiplied(centre, dict.fromkeys(centre, 1.0)) == {n: round(w * FACTOR) for n, w in centre.items()}
    assert multiplied(centre, dict.fromkeys(centre, 0.0)) == {n: round(w / FACTOR) for n, w in centre.items()}


def test_the_starts_come_first() -> None:
    problem = with_curves(make_problem())
    given = standard_starts(problem)
    assert tuple(c.allocation for c in CmaEs(problem).ask(len(given))) == given
