"""The landscapes are what they claim, and searchers beat random on them.

Controls that need not: `uniform` and `random` itself. `threshold` and `knapsack` judge nothing, they only start others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.budget import within
from autoprune.searchers.base import Searcher, SearchProblem
from autoprune.searchers.moves import neighbour
from autoprune.searchers.optuna_samplers import Tpe
from autoprune.searchers.random import Random, draw
from tests.searchers.landscapes import Landscape, all_landscapes, best_regret, run

LANDSCAPES = {landscape.name: landscape for landscape in all_landscapes()}
SEEDS = range(3)


@pytest.fixture(params=list(LANDSCAPES))
def landscape(request: pytest.FixtureRequest) -> Landscape:
    return LANDSCAPES[request.param]


def mean_regret(landscape: Landscape, make: Callable[[SearchProblem], Searcher]) -> float:
    problems = [replace(landscape.problem, seed=seed) for seed in SEEDS]
    return float(np.mean([best_regret(landscape, run(landscape, make(problem))) for problem in problems]))


def without_seeds(problem: SearchProblem, starts: Sequence[Allocation] = ()) -> Tpe:
    return Tpe(problem, starts)


def test_nothing_that_keeps_the_limits_is_better_than_the_optimum(landscape: Landscape) -> None:
    problem, rng = landscape.problem, np.random.default_rng(0)
    assert within(landscape.optimum, problem.costs, problem.limits)
    near = [neighbour(problem, landscape.optimum, rng) for _ in range(100)]
    assert all(landscape.regret(each) >= -1e-12 for each in [*near, *(draw(problem, rng) for _ in range(50))])


def test_tpe_beats_random_with_and_without_its_seeds(landscape: Landscape) -> None:
    random = mean_regret(landscape, Random)
    assert math.isfinite(random)
    assert mean_regret(landscape, without_seeds) < 0.95 * random
    assert mean_regret(landscape, Tpe) < 0.9 * random
