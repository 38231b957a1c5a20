"""Optuna's samplers as plain functions of points and values; the only file that imports optuna.

Points are numbers in [0, 1], one a coordinate; of a coordinate that is a choice, the index. What a searcher realised is
told, not what the sampler proposed, except by CMA-ES. A sampler is seeded anew for every proposal, because a resumed
sampler would not go on as an unbroken one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from autoprune.core.costs import Floats

KEPT = 60
"""So many trials with values a study goes on with, the best and the newest, as a sampler's time grows with them."""
_BEST = 25
"""How many of them are the best: as many as Optuna's estimator takes for good ones at most."""
_MORE = 40
"""How many come to them until it is begun anew."""
_LEAST = 1e-6


@cache
def _optuna() -> ModuleType:
    """Imports Optuna on first use, its log reduced to errors."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _distributions(names: Sequence[str], choices: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Returns the distributions by name; of those in `choices` a category for each of so many values."""
    known, counts = _optuna().distributions, choices or {}
    unit = known.FloatDistribution(0, 1)  # one for all, as Optuna copies deeply whatever it is given
    return {name: known.CategoricalDistribution(range(counts[name])) if name in counts else unit for name in names}


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def tpe_sampler(seed: int) -> Any:
    """Returns Optuna's tree-structured Parzen estimator."""
    return _optuna().samplers.TPESampler(seed=seed, n_startup_trials=1)


def gp_sampler(seed: int) -> Any:
    """Returns Optuna's Gaussian process."""
    return _optuna().samplers.GPSampler(seed=seed, n_startup_trials=1)


class Study:
    """A study told of realised points, and proposals of a sampler from it.

    Args:
        names: of the coordinates.
        make_sampler: from a seed to the sampler of one proposal.
        choices: of the coordinates that are an index, by how many values.
        logarithmic: whether the sampler is told logarithms of the values.
    """

    def __init__(
        self,
        names: Sequence[str],
        make_sampler: Callable[[int], Any],
        choices: Mapping[str, int] | None = None,
        logarithmic: bool = False,
    ) -> None:
        self._distributions, self._choices = _distributions(names, choices), choices or {}
        self._make_sampler, self._logarithmic = make_sampler, logarithmic
        self._begin([])

    def _begin(self, trials: Sequence[tuple[int, Any]]) -> None:
        """Begins the study with numbers and their trials."""
        optuna = _optuna()
        self._study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
        self._study.add_trials(trial for _, trial in trials)
        self._trial = {number: place for place, (number, _) in enumerate(trials)}
        self._valued = sum(trial.value is not None for _, trial in trials)

    def _forget(self) -> None:
        """Begins the study anew with what runs and `KEPT` of the trials that have values."""
        known = self._study.get_trials(deepcopy=False)
        trials = [(number, known[place]) for number, place in self._trial.items()]
        valued = [(number, trial) for number, trial in trials if trial.value is not None]
        best = sorted(valued, key=lambda each: (each[1].value, each[0]))[:_BEST]
        kept = {number for number, _ in best}
        newest = [number for number, _ in valued if number not in kept]
        kept |= {*newest[_BEST - KEPT :], *(number for number, trial in trials if not trial.state.is_finished())}
        self._begin([(number, trial) for number, trial in trials if number in kept])

    def add(self, number: int, point: Floats) -> None:
        """Adds candidate `number`, which runs, at a `[coordinate]` point."""
        optuna = _optuna()
        values = zip(self._distributions, point.tolist(), strict=True)
        params = {name: int(place) if name in self._choices else place for name, place in values}
        self._trial[number] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING, params=params, distributions=self._distributions
            )
        )

    def finish(self, number: int, loss: float | None) -> None:
        """Gives candidate `number` its value, or None if it failed."""
        state = _optuna().trial.TrialState
        told = math.log(max(loss, _LEAST)) if loss is not None and self._logarithmic else loss
        self._study.tell(self._trial[number], told, state=state.FAIL if told is None else state.COMPLETE)
        self._valued += told is not None
        if self._valued >= KEPT + _MORE:
            self._forget()

    def sample(self, rng: np.random.Generator) -> Floats:
        """Returns a `[coordinate]` proposal.

        The trial that asking leaves in the study is told as failed, which the samplers pass over.
        """
        sampler = self._make_sampler(_seed(rng))
        # What all trials have in common, which a new sampler goes through them for, is known.
        sampler.infer_relative_search_space = lambda *_: dict(sorted(self._distributions.items()))
        self._study.sampler = sampler
        trial = self._study.ask(self._distributions)
        params = trial.params  # a copy, each time
        point = np.array([params[name] for name in self._distributions], dtype=np.float64)
        self._study.tell(trial, state=_optuna().trial.TrialState.FAIL)
        return point


class CovarianceStudy:
    """A study that CMA-ES samples, begun at the middle of the unit cube.

    Args:
        middle: the value there.
    """

    def __init__(self, names: Sequence[str], middle: float, population: int) -> None:
        optuna = _optuna()
        self._distributions, self._population = _distributions(names), population
        self._study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
        self._trial: dict[int, int] = {}
        # The sampler takes the dimensions from trials that are complete, so the first is the middle, with its value.
        params = dict.fromkeys(names, 0.5)
        self._study.add_trial(optuna.trial.create_trial(params=params, distributions=self._distributions, value=middle))

    def sample(self, number: int, rng: np.random.Generator) -> Mapping[str, float]:
        """Returns the point of candidate `number`, which runs until it is finished."""
        self._study.sampler = _optuna().samplers.CmaEsSampler(seed=_seed(rng), popsize=self._population)
        trial = self._study.ask(self._distributions)
        self._trial[number] = trial.number
        return dict(trial.params)

    def finish(self, number: int, loss: float | None) -> None:
        """Gives candidate `number` its value, or None if it failed; one that was not sampled here is passed over."""
        state = _optuna().trial.TrialState
        if number in self._trial:
            self._study.tell(self._trial[number], loss, state=state.FAIL if loss is None else state.COMPLETE)


@cache
def _crossover() -> Any:
    """Returns the crossover of `breed`, without Optuna's warning that it is experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _optuna().exceptions.ExperimentalWarning)
        return _optuna().samplers.nsgaii.BLXAlphaCrossover()


def breed(points: Floats, values: Floats, population: int, rng: np.random.Generator) -> Floats:
    """Returns one offspring, by NSGA-II, of the best of all that has values.

    Parents are chosen from the `population` points that survive its sorting (by domination, then by crowding) and
    blended (BLX-0.5, Eshelman and Schaffer 1993, "Real-Coded Genetic Algorithms and Interval-Schemata"); one coordinate
    of the offspring, on average, is drawn anew.

    Args:
        points: `[n, coordinate]`, n ≥ 2.
        values: `[n, objective]`, all minimised.
        population: how many survive.
        rng: of the offspring.
    """
    optuna = _optuna()
    names = [str(i) for i in range(points.shape[1])]
    size = min(population, len(points))
    sampler = optuna.samplers.NSGAIISampler(population_size=size, crossover=_crossover(), seed=_seed(rng))
    study = optuna.create_study(directions=["minimize"] * values.shape[1], sampler=sampler)
    distributions = _distributions(names)
    # A sampler breeds from trials of the generation before, and knows it by this attribute alone.
    generation = {sampler._get_generation_key(): 0}
    study.add_trials(
        optuna.trial.create_trial(
            params=dict(zip(names, point, strict=True)),
            distributions=distributions,
            values=value,
            system_attrs=generation,
        )
        for point, value in zip(points.tolist(), values.tolist(), strict=True)
    )
    params = study.ask(distributions).params
    return np.array([params[name] for name in names])
