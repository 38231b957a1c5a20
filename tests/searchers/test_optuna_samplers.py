from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.registry import resolve
from autoprune.searchers.optuna_samplers import (
    FACTOR,
    FIRST,
    Coordinates,
    CovarianceAdaptation,
    Multipliers,
    ParzenEstimator,
    Tpe,
)
from autoprune.searchers.random import Random
from autoprune.searchers.starts import starts
from tests.searchers.landscapes import make_problem, planted, run, with_curves

GOLDEN = Path(__file__).parents[1] / "golden"


def test_importing_the_searchers_does_not_import_optuna() -> None:
    code = (
        "import sys, autoprune.searchers.optuna_samplers, autoprune.searchers.uniform, autoprune.searchers.random;"
        "print('optuna' in sys.modules, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_coordinates_return_to_the_same_widths() -> None:
    problem = make_problem(step=8)
    coordinates = Coordinates(problem)
    for allocation in (problem.space.narrowest(), problem.space.widest(), *starts(problem)):
        point = coordinates.of(allocation)
        assert point.min() >= 0
        assert point.max() <= 1
        assert coordinates.widths(point) == dict(allocation)


def test_the_estimator_moves_to_where_values_were_good() -> None:
    estimator, rng = ParzenEstimator(["a", "b"]), np.random.default_rng(0)
    for number in range(40):
        point = rng.random(2)
        estimator.add(number, point)
        estimator.finish(number, float(np.abs(point - 0.8).sum()))
    samples = np.array([estimator.sample(np.random.default_rng(i)) for i in range(20)])
    assert np.abs(samples.mean(axis=0) - 0.8).max() < 0.12


def test_the_estimator_keeps_away_from_what_still_runs() -> None:
    def mean_distance(pending: bool) -> float:
        estimator, rng = ParzenEstimator(["a"]), np.random.default_rng(0)
        for number in range(12):
            point = rng.random(1)
            estimator.add(number, point)
            estimator.finish(number, float(abs(point[0] - 0.5)))
        for number in range(12, 42 if pending else 12):
            estimator.add(number, np.array([0.5]))
        return float(np.mean([abs(estimator.sample(np.random.default_rng(i))[0] - 0.5) for i in range(20)]))

    assert mean_distance(pending=True) > 1.5 * mean_distance(pending=False)


def test_failures_teach_nothing_but_are_passed_over() -> None:
    problem = with_curves(make_problem(trials=12))
    searcher = Tpe(problem, starts=())
    found: list[Candidate] = []
    while asked := searcher.ask(1):
        found.extend(asked)
        searcher.tell(Trial(asked[0], Failure("exception", "broken")))
    assert [c.allocation for c in found] == [c.allocation for c in Random(problem).ask(12)]


def test_the_starts_come_first_then_draws_then_proposals() -> None:
    problem = with_curves(make_problem())
    given = starts(problem)
    assert tuple(c.allocation for c in Tpe(problem).ask(len(given))) == given
    bare = Tpe(problem, starts=())
    first = [bare.ask(1)[0].allocation for _ in range(FIRST)]
    assert first == [c.allocation for c in Random(problem).ask(FIRST)]


def test_starts_outside_the_limits_are_projected() -> None:
    problem = make_problem()
    (first,) = Tpe(problem, starts=[problem.space.dense()]).ask(1)
    assert first.allocation == problem.project(problem.space.dense())


def test_the_strategy_moves_to_where_values_were_good() -> None:
    strategy = CovarianceAdaptation(["a", "b"], 1.0)
    points = []
    for number in range(90):
        points.append(strategy.sample(number, np.random.default_rng(number)))
        strategy.finish(number, abs(points[-1]["a"] - 0.8) + abs(points[-1]["b"] - 0.3))
    last = np.array([[point["a"], point["b"]] for point in points[-12:]])
    assert np.abs(last.mean(axis=0) - [0.8, 0.3]).max() < 0.08


def test_multipliers_stay_within_their_factor_of_the_centre() -> None:
    problem = make_problem()
    centre = starts(problem)[0]
    multipliers = Multipliers(problem.space.names, centre)
    assert multipliers.widths(dict.fromkeys(centre, 0.5)) == dict(centre)
    assert multipliers.widths(dict.fromkeys(centre, 1.0)) == {n: round(w * FACTOR) for n, w in centre.items()}
    assert multipliers.widths(dict.fromkeys(centre, 0.0)) == {n: round(w / FACTOR) for n, w in centre.items()}


def test_golden_traces() -> None:
    """Widths of short searches. Of `tpe` only what comes before the estimator, and how many follow: the estimator's
    floating-point sums may differ between machines and releases of Optuna.
    """
    landscape = planted("golden", 1, streams=True)
    problem = landscape.problem
    shown = {"uniform": 50, "random": 12, "tpe": FIRST, "ranked": 50, "evolution": 20, "annealing": 20}
    for name, count in shown.items():
        trials = run(landscape, resolve("searcher", name)(problem))
        first = [list(trial.candidate.allocation.values()) for trial in trials[:count]]
        golden = json.loads((GOLDEN / f"{name}.json").read_text())
        assert {"groups": list(problem.space.names), "trials": len(trials), "first": first} == golden
