from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autoprune.searchers.base.optuna_studies import KEPT, CovarianceStudy, Study, breed, gp_sampler, tpe_sampler


def test_importing_the_searchers_does_not_import_optuna() -> None:
    code = (
        "import sys, autoprune.searchers.optuna_samplers, autoprune.searchers.cmaes, autoprune.searchers.nsga2;"
        "print('optuna' in sys.modules, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_the_estimator_moves_to_where_values_were_good() -> None:
    estimator, rng = Study(["a", "b"], tpe_sampler), np.random.default_rng(0)
    for number in range(40):
        point = rng.random(2)
        estimator.add(number, point)
        estimator.finish(number, float(np.abs(point - 0.8).sum()))
    samples = np.array([estimator.sample(np.random.default_rng(i)) for i in range(20)])
    assert np.abs(samples.mean(axis=0) - 0.8).max() < 0.12


def test_the_estimator_keeps_away_from_what_still_runs() -> None:
    def mean_distance(pending: bool) -> float:
        estimator, rng = Study(["a"], tpe_sampler), np.random.default_rng(0)
        for number in range(12):
            point = rng.random(1)
            estimator.add(number, point)
            estimator.finish(number, float(abs(point[0] - 0.5)))
        for number in range(12, 42 if pending else 12):
            estimator.add(number, np.array([0.5]))
        return float(np.mean([abs(estimator.sample(np.random.default_rng(i))[0] - 0.5) for i in range(20)]))

    assert mean_distance(pending=True) > 1.5 * mean_distance(pending=False)


def test_the_estimator_forgets_neither_the_best_nor_the_newest_nor_what_runs() -> None:
    study, count = Study(["a", "b"], tpe_sampler), 8 * KEPT
    for number in range(count):
        study.add(number, np.array([number / count, 0.5]))
        if number != 3:
            study.finish(number, None if number % 10 == 1 else float(abs(number - 40)))
    known = study._study.get_trials(deepcopy=False)
    assert len(known) < 2.5 * KEPT
    values = [trial.value for trial in known if trial.value is not None]
    assert set(range(12)) <= {int(value) for value in values}  # the best are those about the fortieth
    assert values[-20:] == [abs(number - 40) for number in range(count) if number % 10 != 1][-20:]
    study.finish(3, 0.5)  # it is known by its number still
    assert study._study.get_trials(deepcopy=False)[0].value == 0.5


def test_the_strategy_moves_to_where_values_were_good() -> None:
    strategy = CovarianceStudy(["a", "b"], 1.0, population=6)
    points = []
    for number in range(90):
        points.append(strategy.sample(number, np.random.default_rng(number)))
        strategy.finish(number, abs(points[-1]["a"] - 0.8) + abs(points[-1]["b"] - 0.3))
    last = np.array([[point["a"], point["b"]] for point in points[-12:]])
    assert np.abs(last.mean(axis=0) - [0.8, 0.3]).max() < 0.08


def test_offspring_lie_where_their_parents_are_not_where_the_dominated_were() -> None:
    rng = np.random.default_rng(0)
    good = np.column_stack([rng.uniform(0.6, 0.9, 10), np.full(10, 0.8)])
    points = np.concatenate([rng.uniform(0.0, 0.3, (30, 2)), good])
    along = points[:, 0]
    values = np.column_stack([along, 1.0 - along]) + np.where(np.arange(40) < 30, 5.0, 0.0)[:, None]
    bred = np.array([breed(points, values, 10, np.random.default_rng(i)) for i in range(30)])
    assert np.median(np.abs(bred[:, 1] - 0.8)) < 1e-9
    assert 0.6 < np.median(bred[:, 0]) < 0.9


def test_an_offspring_is_a_function_of_what_is_known_and_of_the_seed_alone() -> None:
    rng = np.random.default_rng(0)
    points, values = rng.random((12, 3)), rng.random((12, 2))
    first, again, other = (breed(points, values, 6, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_two_trials_are_enough_for_an_offspring() -> None:
    child = breed(np.array([[0.2], [0.4]]), np.array([[1.0, 2.0], [2.0, 1.0]]), 20, np.random.default_rng(0))
    assert child.shape == (1,)
    assert 0 <= child[0] <= 1


@pytest.mark.parametrize(("sampler", "logarithmic"), [(tpe_sampler, False), (gp_sampler, True)])
def test_samplers_see_choices_as_categories(sampler: Callable[[int], Any], logarithmic: bool) -> None:
    study, rng = Study(["a", "b"], sampler, {"b": 3}, logarithmic), np.random.default_rng(0)
    for number in range(30):
        point = np.array([rng.random(), rng.integers(3)])
        study.add(number, point)
        study.finish(number, abs(point[0] - 0.8) + [0.5, 0.1, 0.5][int(point[1])])
    samples = np.array([study.sample(np.random.default_rng(i)) for i in range(10)])
    assert set(samples[:, 1]) <= {0.0, 1.0, 2.0}
    assert (samples[:, 1] == 1).sum() >= 7
    assert abs(float(np.median(samples[:, 0])) - 0.8) < 0.15


def test_the_gaussian_process_passes_over_failures_and_takes_a_loss_of_nothing() -> None:
    study = Study(["a"], gp_sampler, logarithmic=True)
    for number, loss in enumerate([0.0, None, 0.5, 0.25, 1.0]):
        study.add(number, np.array([number / 5]))
        study.finish(number, loss)
    assert 0 <= study.sample(np.random.default_rng(0))[0] <= 1
