from __future__ import annotations

import numpy as np

from autoprune.core.budget import within
from autoprune.searchers.base import History
from autoprune.searchers.moves import neighbour, new_neighbour
from autoprune.searchers.uniform import uniform_allocation
from tests.searchers.landscapes import make_problem


def test_neighbours_stay_on_the_limits_and_near() -> None:
    problem, rng = make_problem(), np.random.default_rng(0)
    start = uniform_allocation(problem)
    found = [neighbour(problem, start, rng) for _ in range(40)]
    assert len(set(found)) > 30
    for each in found:
        assert within(each, problem.costs, problem.limits)
        assert problem.project(each) == each
        shift = [abs(each[g.name] - start[g.name]) / g.width for g in problem.space.groups]
        assert float(np.median(shift)) < 0.1


def test_a_space_without_neighbours_has_no_new_one() -> None:
    problem = make_problem(keep=1.0)
    history, dense = History(problem), problem.space.dense()
    history.propose(dense)
    assert new_neighbour(history, dense, np.random.default_rng(0), 20) is None
