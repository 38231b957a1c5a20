from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.budget import CostKind
from autoprune.core.costs import within
from autoprune.core.metrics import LOSS
from autoprune.core.trial import Candidate, Trial
from autoprune.reporting.frontier import frontier
from autoprune.searchers import nsga2
from autoprune.searchers.auto import ELSEWHERE
from autoprune.searchers.base.history import Estimate
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.surrogate import Surrogate
from autoprune.searchers.nsga2 import BUDGETS, POPULATION, Nsga2, draw, neighbour, spread_allocations, tightened
from tests.scores import scored
from tests.searchers.landscapes import Landscape, make_problem, planted, run, with_curves

LANDSCAPE = planted("interactions", 3, streams=True, pairs=0.9)


def hypervolume(landscape: Landscape, allocations: Sequence[Allocation]) -> float:
    """The area that points dominate of (share of the limit, true log loss over the least), up to (1, 2.5)."""
    limit, least = landscape.problem.limits["flops"], landscape.true(landscape.optimum)
    points = sorted(
        (landscape.problem.costs.cost(each, "flops") / limit, float(np.log(landscape.true(each) / least)))
        for each in allocations
    )
    area, best = 0.0, 2.5
    for share, loss in points:
        if share <= 1 and loss < best:
            area, best = area + (1 - share) * (best - loss), loss
    return area


def searched(seed: int, trials: int) -> list[Trial]:
    return run(LANDSCAPE, Nsga2(replace(LANDSCAPE.problem, seed=seed, trials=trials)))


def allocations(trials: Sequence[Trial]) -> list[Allocation]:
    return [trial.candidate.allocation for trial in trials]


def test_the_area_of_known_points() -> None:
    assert hypervolume(LANDSCAPE, []) == 0
    assert abs(hypervolume(LANDSCAPE, [LANDSCAPE.optimum])) < 1e-6  # on the limit
    one = LANDSCAPE.problem.space.narrowest()
    assert hypervolume(LANDSCAPE, [one, LANDSCAPE.optimum]) == hypervolume(LANDSCAPE, [one])


def test_tighter_limits_lie_between_the_least_reachable_and_the_problems_own() -> None:
    problem = make_problem()
    least = problem.costs.cost(problem.space.narrowest(), "flops")
    found = [tightened(problem, share).limits["flops"] for share in (0.0, 0.5, 1.0)]
    assert found == [least, least + (problem.limits["flops"] - least) // 2, problem.limits["flops"]]


def test_a_limit_above_all_costs_is_tightened_from_what_can_be_spent() -> None:
    problem = make_problem()
    most = problem.costs.cost(problem.space.widest(), "flops")
    assert tightened(replace(problem, limits={"flops": 10 * most}), 1.0).limits["flops"] == most


def test_the_first_candidates_are_spread_over_the_budgets() -> None:
    problem = with_curves(make_problem())
    costs = [problem.costs.cost(each, "flops") for each in spread_allocations(problem)]
    least, limit = problem.costs.cost(problem.space.narrowest(), "flops"), problem.limits["flops"]
    rungs = {round(BUDGETS * (cost - least) / (limit - least)) for cost in costs}
    assert rungs == set(range(1, BUDGETS + 1))
    assert BUDGETS < len(costs) <= POPULATION
    assert allocations(searched(0, len(costs))) == list(spread_allocations(LANDSCAPE.problem))


def test_without_curves_uniform_stands_on_every_rung() -> None:
    assert len(spread_allocations(make_problem())) == BUDGETS


def test_nothing_is_filled_up_to_the_limits() -> None:
    problem = LANDSCAPE.problem
    rng = np.random.default_rng(0)
    drawn = [draw(problem, rng) for _ in range(60)]
    moved = [neighbour(problem, drawn[0], rng) for _ in range(60)]
    assert all(each in problem.space and within(each, problem.costs, problem.limits) for each in [*drawn, *moved])
    shares = [problem.costs.cost(each, "flops") / problem.limits["flops"] for each in drawn]
    assert np.mean(np.array(shares) < 0.9) > 0.5
    assert all(sum(each[name] != drawn[0][name] for name in each) <= 1 for each in moved if _cheaper(each, drawn[0]))


def _cheaper(left: Allocation, right: Allocation) -> bool:
    return all(left[name] <= right[name] for name in left)


@pytest.mark.slow
def test_offspring_enlarge_the_frontier_that_it_begins_with() -> None:
    begun = hypervolume(LANDSCAPE, spread_allocations(LANDSCAPE.problem))
    ended = [hypervolume(LANDSCAPE, allocations(searched(seed, 60))) for seed in (0, 1)]
    assert min(ended) > 1.02 * begun


def test_without_its_seeds_its_frontier_is_larger_than_that_of_as_many_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nsga2, "spread_allocations", lambda problem: ())
    bred, drawn = [], []
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        bred.append(hypervolume(LANDSCAPE, allocations(searched(seed, 60))))
        drawn.append(hypervolume(LANDSCAPE, [draw(LANDSCAPE.problem, rng) for _ in range(60)]))
    assert np.mean(bred) > np.mean(drawn)


def test_of_two_limited_costs_each_spreads_the_frontier() -> None:
    dense = LANDSCAPE.problem.costs.dense()
    limits: dict[CostKind, int] = {"flops": dense["flops"] // 2, "params": dense["params"] // 2}
    problem = replace(LANDSCAPE.problem, limits=limits, trials=40)
    found = run(replace(LANDSCAPE, problem=problem), Nsga2(problem))
    counted = [replace(t, costs=dict(**problem.costs.costs(t.candidate.allocation))) for t in found]
    both, one = (frontier(counted, LOSS, kinds) for kinds in (["flops", "params"], ["flops"]))
    assert len(both) > len(one) > 5


def _share(problem: SearchProblem, allocation: Allocation) -> float:
    """Where its FLOPs lie between the least reachable and the limit."""
    least, most = problem.costs.cost(problem.space.narrowest(), "flops"), problem.limits["flops"]
    return (problem.costs.cost(allocation, "flops") - least) / (most - least)


@pytest.mark.slow
def test_budgets_are_drawn_where_the_frontier_is_steep() -> None:
    problem = replace(LANDSCAPE.problem, trials=120)

    def judged(candidate: Candidate) -> Trial:
        share = _share(problem, candidate.allocation)
        return Trial(candidate, scored(float(10 ** np.clip(2 - 5 * share, -1, 0)), 0.5, 100))

    searcher = Nsga2(problem)
    while asked := searcher.ask(1):
        searcher.tell(judged(asked[0]))
        if asked[0].number >= POPULATION:
            assert asked[0].stop_thresholds == ()  # nothing is known of parts of the samples
    shares = np.array([_share(problem, candidate.allocation) for candidate in searcher._history.asked[POPULATION:]])
    steep, limits = ((shares > 0.37) & (shares < 0.63)).mean(), (shares > 0.98).mean()
    assert steep > 0.65
    assert limits > 0.05
    assert steep + limits < 1.0


def test_what_is_near_a_budget_is_modelled_and_sought_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that notes what it is asked, of a search whose losses are known."""
    problem = replace(LANDSCAPE.problem, trials=60)
    noted: list[tuple[Trial, float, list[Allocation]]] = []

    def fitted(
        surrogate: Surrogate, reference: Trial, order: Callable[[Estimate], float]
    ) -> Callable[[Sequence[Allocation], float], np.ndarray]:
        estimates = surrogate._history.estimates()
        shares, distances = (
            np.array([_share(problem, each.allocation) for each in estimates]),
            np.array([order(each) for each in estimates]),
        )
        budget = min(
            (shares[0] + distances[0], shares[0] - distances[0]),
            key=lambda budget: float(np.abs(np.abs(shares - budget) - distances).max()),
        )
        assert np.abs(shares - budget) == pytest.approx(distances)
        noted.append((reference, budget, []))

        def bound(wanted: Sequence[Allocation], daring: float) -> np.ndarray:
            noted[-1][2].extend([] if noted[-1][2] else wanted)
            return np.arange(len(wanted), dtype=float)

        return bound

    monkeypatch.setattr(Surrogate, "fitted", fitted)
    searcher, told = Nsga2(problem), list[Trial]()
    while asked := searcher.ask(1):
        if asked[0].number >= POPULATION:
            reference, budget, begins = noted[-1]
            near = sorted(told, key=lambda trial: abs(_share(problem, trial.candidate.allocation) - budget))
            no_dearer = [t for t in told if _share(problem, t.candidate.allocation) <= budget + 1e-9]
            least = min(LANDSCAPE.true(trial.candidate.allocation) for trial in no_dearer or told)
            assert LANDSCAPE.true(reference.candidate.allocation) == least
            if asked[0].number % ELSEWHERE:
                tight = tightened(problem, budget)
                assert begins[1:11] == [tight.project(trial.candidate.allocation) for trial in near[:10]]
        told.append(Trial(asked[0], scored(LANDSCAPE.true(asked[0].allocation), 0.5, 100)))
        searcher.tell(told[-1])
    assert len(noted) == 60 - POPULATION


@pytest.mark.slow
def test_a_flat_frontier_is_searched_under_all_budgets() -> None:
    problem = replace(LANDSCAPE.problem, trials=120)
    searcher = Nsga2(problem)
    while asked := searcher.ask(1):
        searcher.tell(Trial(asked[0], scored(1.0, 0.5, 100)))
    shares = [_share(problem, candidate.allocation) for candidate in searcher._history.asked[POPULATION:]]
    assert np.histogram(shares, bins=4, range=(0.0, 1.0))[0].min() > 10


def test_one_is_dropped_where_it_is_above_the_line_between_its_neighbours_on_the_frontier() -> None:
    problem = replace(LANDSCAPE.problem, rungs=(10,))
    searcher = Nsga2(problem)
    known: list[Trial] = []

    def told(candidate: Candidate) -> None:
        loss = LANDSCAPE.true(candidate.allocation)
        trial = Trial(candidate, scored(loss, 0.5, 100, rungs=(scored(loss - 0.1, 0.5, 10),)))
        searcher.tell(trial)
        known.append(replace(trial, costs=dict(**problem.costs.costs(candidate.allocation))))

    first = list(searcher.ask(POPULATION))
    for candidate in first:
        told(candidate)
    assert all(candidate.stop_thresholds == () for candidate in first)
    barred = 0
    for _ in range(20):
        (candidate,) = searcher.ask(1)
        own = problem.costs.cost(candidate.allocation, "flops")
        points = [(t.costs["flops"], t.score.loss) for t in frontier(known, LOSS, ["flops"]) if t.score]
        costs, losses = zip(*points, strict=True)
        if own >= costs[0]:
            assert candidate.stop_thresholds == (pytest.approx(np.interp(own, costs, losses) - 0.1),)
            barred += 1
        else:
            assert candidate.stop_thresholds == ()
        told(candidate)
    assert barred > 10


def test_of_two_limited_costs_a_stop_threshold_is_that_of_one_that_costs_no_more_of_either() -> None:
    dense = LANDSCAPE.problem.costs.dense()
    limits: dict[CostKind, int] = {"flops": dense["flops"] // 2, "params": dense["params"] // 2}
    problem = replace(LANDSCAPE.problem, limits=limits, rungs=(10,), trials=60)
    searcher = Nsga2(problem)
    known: list[tuple[dict[CostKind, int], float]] = []
    while asked := searcher.ask(1):
        own, loss = problem.costs.costs(asked[0].allocation), LANDSCAPE.true(asked[0].allocation)
        if asked[0].stop_thresholds:
            least = min(value for costs, value in known if all(costs[kind] <= own[kind] for kind in limits))
            better = min(value for costs, value in known)
            assert better - 0.1 - 1e-9 <= asked[0].stop_thresholds[0] <= least - 0.1 + 1e-9
        known.append((dict(own), loss))
        searcher.tell(Trial(asked[0], scored(loss, 0.5, 100, rungs=(scored(loss - 0.1, 0.5, 10),))))
