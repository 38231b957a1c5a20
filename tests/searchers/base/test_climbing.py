from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import within
from autoprune.searchers.base.climbing import BROOD, ROUNDS, climb
from autoprune.searchers.base.gaussian_process import Floats
from autoprune.searchers.controls import uniform_allocation
from tests.searchers.landscapes import planted

LANDSCAPE = planted("separable", 3, True)
PARENT = uniform_allocation(LANDSCAPE.problem)


def truth(allocations: Sequence[Allocation], _: float) -> Floats:
    return np.array([LANDSCAPE.true(each) for each in allocations])


def test_what_it_finds_keeps_the_limits_and_is_in_order() -> None:
    problem = LANDSCAPE.problem
    found = climb(problem, PARENT, truth, np.random.default_rng(0))
    values = truth(found, 0.0).tolist()
    assert values == sorted(values)
    assert BROOD < len(found) <= ROUNDS * BROOD
    assert len(set(found)) == len(found)
    assert all(each in problem.space and within(each, problem.costs, problem.limits) for each in found)


def test_rounds_go_on_from_what_the_last_one_found() -> None:
    """A long climb by the truth comes to the optimum, many trades away."""
    at = PARENT
    for number in range(60):
        at = min([at, climb(LANDSCAPE.problem, at, truth, np.random.default_rng(number))[0]], key=LANDSCAPE.true)
    assert LANDSCAPE.regret(at) < 0.1 * LANDSCAPE.regret(PARENT)


def test_without_a_bound_the_order_is_that_of_their_making() -> None:
    one, other = (climb(LANDSCAPE.problem, PARENT, None, np.random.default_rng(seed)) for seed in (0, 0))
    assert one == other
    assert one[0] != PARENT
