from __future__ import annotations

from autoprune.searchers.cmaes import FACTOR, CmaEs, multiplied, with_branches
from autoprune.searchers.knapsack import standard_starts
from autoprune.testing.problems import depth
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


def test_branches_go_at_the_low_end_and_come_back_at_the_high_end() -> None:
    problem = depth()
    space = problem.space
    centre = problem.project({**space.widest(), "s0.1.a": 0})
    point = {**dict.fromkeys(space.names, 0.5), "s1.0.a": 0.05}
    found = with_branches(space, centre, point, multiplied(centre, point))
    assert [name for name in space.names if space.bounds[name].removable and not found[name]] == ["s0.1.a", "s1.0.a"]
    back = with_branches(space, centre, {**point, "s0.1.a": 0.95}, multiplied(centre, point))
    assert back["s0.1.a"] > 0 == back["s0.1.b"]
