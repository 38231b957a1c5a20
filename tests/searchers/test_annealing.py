from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.trial import Candidate, Failure, Stopped, Trial
from autoprune.searchers.annealing import FINAL_TEMPERATURE, Annealing
from autoprune.searchers.knapsack import standard_starts
from tests.scores import scored
from tests.searchers.landscapes import make_problem, with_curves
from tests.tiers import rest_slow

PROBLEM = with_curves(make_problem(trials=200))


def told(candidate: Candidate, loss: float) -> Trial:
    return Trial(candidate, scored(loss, 0.5, 10))


def warmed(rise: float = 0.1, seed: int = 0) -> tuple[Annealing, int]:
    """A walk at its best start, with loss 1, that knows its first temperature; and the next number."""
    searcher = Annealing(replace(PROBLEM, seed=seed))
    for candidate in searcher.ask(len(standard_starts(PROBLEM))):
        searcher.tell(told(candidate, 1.0 + 0.1 * candidate.number))
    for _ in range(20):
        (candidate,) = searcher.ask(1)
        searcher.tell(told(candidate, 1.0 + rise))
    return searcher, candidate.number + 1


def standing(searcher: Annealing) -> float:
    searcher.ask(1)  # the walk moves when the next candidate is asked for
    at = searcher._current
    assert at is not None
    assert at.score is not None
    return at.score.loss


def test_the_walk_begins_at_the_best_start_and_warms_up_without_a_step_up() -> None:
    searcher, _ = warmed()
    assert standing(searcher) == 1.0


@pytest.mark.parametrize(("rise", "share"), rest_slow([(0.1, 0.5), (0.3, 0.125), (0.02, 0.87)]))
@pytest.mark.slow
def test_about_half_of_the_steps_like_the_first_are_accepted_after_warming(rise: float, share: float) -> None:
    """The temperature is nearly the first one, so a rise of three times the median passes with 0.5 ** 3."""
    accepted = 0
    for seed in range(60):
        searcher, number = warmed(seed=seed)
        cooled = FINAL_TEMPERATURE ** searcher._progress(number)
        searcher._rises = [rise_ / cooled for rise_ in searcher._rises]  # undo what has cooled
        searcher._usual_rise /= cooled
        (candidate,) = searcher.ask(1)
        searcher.tell(told(candidate, 1.0 + rise))
        accepted += standing(searcher) > 1.0
    assert accepted / 60 == pytest.approx(share, abs=0.17)


def test_the_temperature_falls_geometrically_to_its_end() -> None:
    searcher, first = Annealing(PROBLEM), len(standard_starts(PROBLEM))
    for candidate in searcher.ask(PROBLEM.trials):
        searcher.tell(told(candidate, 1.0 + 0.1 * (candidate.number % 5)))
    searcher._next()  # reads what was told; `ask` proposes no more than the trials allowed
    climbs = [searcher._accepted_rise(number) / -math.log(draw(number)) for number in range(PROBLEM.trials)]
    warming = next(number for number, climb in enumerate(climbs) if climb > 0)
    assert warming == pytest.approx(first + 0.1 * (PROBLEM.trials - first), abs=1.5)
    temperatures = climbs[warming:]
    ratios = [after / before for before, after in itertools.pairwise(temperatures)]
    assert ratios == pytest.approx([FINAL_TEMPERATURE ** (1 / (PROBLEM.trials - first))] * len(ratios))
    assert temperatures[-1] / temperatures[0] == pytest.approx(FINAL_TEMPERATURE**0.9, rel=0.1)


def draw(number: int) -> float:
    return float(np.random.default_rng([PROBLEM.seed, number, 1]).random())


def scored_on_rungs(candidate: Candidate, loss: float) -> Trial:
    return Trial(candidate, scored(loss, 0.5, 100, rungs=(scored(loss - 0.1, 0.5, 10),)))


def test_a_neighbour_may_be_dropped_only_where_its_draw_would_not_take_it() -> None:
    problem = replace(PROBLEM, rungs=(10,))
    searcher = Annealing(problem)
    for candidate in searcher.ask(len(standard_starts(problem))):
        assert candidate.stop_thresholds == ()
        searcher.tell(scored_on_rungs(candidate, 1.0 + 0.1 * candidate.number))
    for _ in range(100):
        (candidate,) = searcher.ask(1)
        if candidate.stop_thresholds:
            break
        searcher.tell(scored_on_rungs(candidate, 1.1))
    # Every trial rose by 0.1 from the rung to the end, so that the bar allows for no doubt.
    assert candidate.stop_thresholds == (
        pytest.approx(standing(searcher) - 0.1 + searcher._accepted_rise(candidate.number)),
    )
    before = standing(searcher)
    searcher.tell(Trial(candidate, Stopped(scored(3.0, 0.5, 10))))
    assert standing(searcher) == before


def test_a_late_result_is_compared_with_where_the_walk_stands_when_it_comes() -> None:
    searcher, _ = warmed()
    first, second, third = searcher.ask(3)
    searcher.tell(told(third, 0.5))
    assert standing(searcher) == 0.5
    searcher.tell(told(second, 0.9))  # better than where it came from, far worse than where the walk stands
    searcher.tell(Trial(first, Failure("nan", "not a number")))
    assert standing(searcher) == 0.5


def test_steps_shrink_as_it_cools() -> None:
    problem = replace(PROBLEM, trials=100)
    searcher = Annealing(problem, starts=[problem.space.widest()])
    (start,) = searcher.ask(1)
    searcher.tell(told(start, 1.0))
    shifts = []
    while asked := searcher.ask(1):
        shifts.append(
            sum(abs(w - start.allocation[n]) / problem.costs.widths[n] for n, w in asked[0].allocation.items())
        )
        searcher.tell(Trial(asked[0], Failure("nan", "not a number")))
    assert sum(shifts[-30:]) < 0.7 * sum(shifts[:30])
