from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import within
from autoprune.searchers.base.history import History
from autoprune.searchers.base.moves import draws, neighbour, new_neighbour, trades
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.controls import uniform_allocation
from autoprune.testing.problems import depth
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
    assert new_neighbour(history, history.point(dense), np.random.default_rng(0)) is None


def test_a_trade_narrows_one_group_and_widens_another_on_the_limits() -> None:
    problem, rng = make_problem(), np.random.default_rng(0)
    start = uniform_allocation(problem)
    found = trades(problem, start, rng, 0.2, [1] * 40)
    assert len(set(found)) > 25
    changed = [[name for name in start if each[name] != start[name]] for each in found]
    assert np.mean([len(names) for names in changed]) < 4  # the two, and what the projection fills
    assert any(min(each[n] - start[n] for n in start) < 0 < max(each[n] - start[n] for n in start) for each in found)
    for each in found:
        assert within(each, problem.costs, problem.limits)
        assert problem.project(each) == each


def test_a_trade_goes_no_further_than_its_reach() -> None:
    problem, rng = make_problem(), np.random.default_rng(0)
    start = uniform_allocation(problem)
    for reach in (0.05, 0.5):
        found = trades(problem, start, rng, reach, [1] * 60)
        deepest = max((start[n] - each[n]) / len(problem.space.bounds[n].levels()) for each in found for n in start)
        assert reach / 2 < deepest <= reach + 0.05


def test_where_nothing_can_be_narrowed_a_trade_changes_nothing() -> None:
    problem = make_problem()
    narrowest = problem.space.narrowest()
    tight = replace(problem, limits={"flops": problem.costs.cost(narrowest, "flops")})
    assert trades(tight, narrowest, np.random.default_rng(0), 0.5, [1]) == [narrowest]


def removed(problem: SearchProblem, allocation: Allocation) -> set[str]:
    return {name for name in problem.space.names if problem.space.bounds[name].removable and allocation[name] == 0}


def test_draws_are_without_few_branches_and_without_many() -> None:
    problem = depth()
    counts = [len(removed(problem, each)) for each in draws(problem, np.random.default_rng(0), 60)]
    assert min(counts) == 0
    assert max(counts) >= 4
    assert 1 < np.mean(counts) < 4


def test_trades_and_neighbours_remove_branches_and_bring_them_back() -> None:
    problem, rng = depth(), np.random.default_rng(0)
    start = uniform_allocation(problem)
    assert not removed(problem, start)
    without = problem.project({**start, "s0.1.a": 0, "s2.0.a": 0})
    assert removed(problem, without) == {"s0.1.a", "s2.0.a"}
    for found in (
        trades(problem, without, rng, 0.2, [1] * 80),
        [neighbour(problem, without, rng) for _ in range(80)],
    ):
        assert all(each in problem.space and within(each, problem.costs, problem.limits) for each in found)
        gone = [removed(problem, each) for each in found]
        assert any(len(each) < 2 for each in gone)
    assert any(len(removed(problem, each)) > 2 for each in trades(problem, without, rng, 0.2, [1] * 80))
