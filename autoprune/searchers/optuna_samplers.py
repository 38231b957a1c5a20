"""Optuna's samplers, in the space of allocations that keep the limits; the only file that imports optuna.

Source of `tpe`: the tree-structured Parzen estimator, Bergstra et al. 2011 (NeurIPS 24); multivariate, after Falkner et
al. 2018, arXiv:1807.01774; candidates that still run count as bad (constant liar, Ginsbourger et al. 2010). We differ:

- It sees each candidate at the widths that the projection realised, not at those that it proposed.
- Fifty trials cannot fill dozens of dimensions, so a proposal takes each group from the estimator with probability
  `SHARE` and from the best candidate so far otherwise, as DYCORS does (Regis and Shoemaker 2013,
  doi:10.1080/0305215X.2012.687731; there the share falls with time). On synthetic landscapes of 12 and 27 groups that
  took a fifth to two fifths off the mean regret; more candidates per proposal than Optuna's 24 did not help reliably.
- It begins with allocations worth an evaluation, and draws at random only until `FIRST` candidates have scores.
- The sampler is seeded anew for every proposal from (seed, number, attempt), so that a replay goes on as the unbroken
  run would.

Source of `cmaes`: the covariance matrix adaptation evolution strategy, Hansen and Ostermeier 2001, Evolutionary
Computation 9. It searches one factor for each group, by which the width of the best start is multiplied, on a
logarithmic scale around 1, and every proposal is projected. It learns from the factors it proposed, not from the widths
realised: its covariance is that of its own draws. `POPULATION` is smaller than Hansen's 4 + 3 ln(groups), for more
generations within a few dozen trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Trial, value
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import History, ask_repeatedly
from autoprune.searchers.moves import new_neighbour
from autoprune.searchers.random import draw_new
from autoprune.searchers.starts import opening

FIRST = 6
SHARE = 0.3
POPULATION = 6
FACTOR = 1.5
"""By how much at most `cmaes` multiplies or divides a width of the best start."""
_ATTEMPTS = 4
_NEIGHBOURS = 50


@cache
def _optuna() -> ModuleType:
    """Optuna, imported on first use, its log reduced to errors."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Coordinates:
    """Every group's width as a number in [0, 1]: how far it lies from the narrowest to the widest allowed."""

    def __init__(self, problem: SearchProblem) -> None:
        self.names = problem.space.names
        narrowest, widest = problem.space.narrowest(), problem.space.widest()
        self._low = np.array([narrowest[name] for name in self.names], dtype=np.float64)
        self._range = np.array([widest[name] for name in self.names], dtype=np.float64) - self._low

    def of(self, allocation: Allocation) -> NDArray[np.float64]:
        widths = np.array([allocation[name] for name in self.names], dtype=np.float64)
        return (widths - self._low) / np.maximum(self._range, 1.0)

    def widths(self, point: NDArray[np.float64]) -> dict[str, int]:
        """The nearest whole widths; not yet in steps, nor within the limits."""
        return dict(zip(self.names, np.rint(self._low + point * self._range).astype(int).tolist(), strict=True))


class ParzenEstimator:
    """An Optuna study told of realised points, and TPE proposals from it."""

    def __init__(self, names: Sequence[str]) -> None:
        optuna = _optuna()
        self._distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in names}
        self._study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
        self._trial: dict[int, int] = {}

    def add(self, number: int, point: NDArray[np.float64]) -> None:
        """Candidate `number` runs, at `point`."""
        optuna = _optuna()
        params = dict(zip(self._distributions, point.tolist(), strict=True))
        self._trial[number] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING, params=params, distributions=self._distributions
            )
        )

    def finish(self, number: int, loss: float | None) -> None:
        """Candidate `number` has a value, or None if it failed."""
        state = _optuna().trial.TrialState
        self._study.tell(self._trial[number], loss, state=state.FAIL if loss is None else state.COMPLETE)

    def sample(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """A proposal; the trial that asking leaves in the study is told as failed, which the estimator passes over."""
        optuna = _optuna()
        seed = int(rng.integers(2**31))
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
        trial = self._study.ask(self._distributions)
        point = np.array([trial.params[name] for name in self._distributions])
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return point


class Tpe:
    """Proposes the starts, a few random draws, then what the estimator expects to be good; never the same twice.

    Args:
        starts: allocations to begin with; None takes the standard ones (uniform, threshold, knapsacks).
    """

    uses_curves = True

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        self._history = History(problem)
        self._starts = opening(problem, starts)
        self._coordinates = Coordinates(problem)
        self._estimator = ParzenEstimator(problem.space.names)

    def ask(self, limit: int) -> Sequence[Candidate]:
        return ask_repeatedly(self._history, limit, self._next)

    def tell(self, trial: Trial) -> None:
        self._history.tell(trial)
        loss = None if trial.score is None else value(trial.score, self._history.problem.objective)
        self._estimator.finish(trial.number, loss)

    def _next(self) -> Allocation | None:
        allocation = self._find()
        if allocation is not None:
            self._estimator.add(self._history.number, self._coordinates.of(allocation))
        return allocation

    def _find(self) -> Allocation | None:
        history = self._history
        start = history.first_new(self._starts)
        if start is not None:
            return start
        rng = history.problem.generator(history.number)
        best = history.best()
        scored = sum(trial.score is not None for trial in history.told.values())
        if best is None or scored < FIRST:
            return draw_new(history, rng)
        return self._proposal(best.candidate.allocation) or (
            new_neighbour(history, best.candidate.allocation, rng, _NEIGHBOURS) or draw_new(history, rng)
        )

    def _proposal(self, best: Allocation) -> Allocation | None:
        """The first new one among a few crossings of the best candidate with the estimator's proposals."""
        problem, at = self._history.problem, self._coordinates.of(best)
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([problem.seed, self._history.number, attempt])
            point = _cross(at, self._estimator.sample(rng), rng)
            allocation = problem.project(self._coordinates.widths(point))
            if allocation not in self._history:
                return allocation
        return None


class Multipliers:
    """Every group's width as a number in [0, 1]: the logarithm of its ratio to a centre, which is 0.5 everywhere."""

    def __init__(self, names: Sequence[str], centre: Allocation) -> None:
        self._names, self._centre = names, centre

    def widths(self, point: Mapping[str, float]) -> dict[str, int]:
        """The nearest whole widths; not yet inside the space, nor within the limits.

        Where all of a group is gone at the centre, half a structure is multiplied, so that it may come back.
        """
        return {n: round(max(self._centre[n], 0.5) * FACTOR ** (2.0 * point[n] - 1.0)) for n in self._names}


class CovarianceAdaptation:
    """An Optuna study that CMA-ES samples, begun at the middle of the unit cube."""

    def __init__(self, names: Sequence[str], middle: float) -> None:
        optuna = _optuna()
        self._distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in names}
        self._study = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(seed=0))
        self._trial: dict[int, int] = {}
        # The sampler takes the dimensions from trials that are complete, so the first is the middle, with its value.
        params = dict.fromkeys(names, 0.5)
        self._study.add_trial(optuna.trial.create_trial(params=params, distributions=self._distributions, value=middle))

    def sample(self, number: int, rng: np.random.Generator) -> dict[str, float]:
        """The point of candidate `number`, which runs until it is finished."""
        seed = int(rng.integers(2**31))
        self._study.sampler = _optuna().samplers.CmaEsSampler(seed=seed, popsize=POPULATION)
        trial = self._study.ask(self._distributions)
        self._trial[number] = trial.number
        return dict(trial.params)

    def finish(self, number: int, loss: float | None) -> None:
        """Candidate `number` has a value, or None if it failed; one that was not sampled here is passed over."""
        state = _optuna().trial.TrialState
        if number in self._trial:
            self._study.tell(self._trial[number], loss, state=state.FAIL if loss is None else state.COMPLETE)


class CmaEs:
    """Proposes the starts, then multiples of the best of them as CMA-ES draws them; never the same twice.

    Args:
        starts: allocations to begin with; None takes the standard ones (uniform, threshold, knapsacks).
    """

    uses_curves = True

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        self._history = History(problem)
        self._starts = opening(problem, starts)
        self._strategy: CovarianceAdaptation | None = None
        self._multipliers: Multipliers | None = None

    def ask(self, limit: int) -> Sequence[Candidate]:
        return ask_repeatedly(self._history, limit, self._next)

    def tell(self, trial: Trial) -> None:
        self._history.tell(trial)
        if self._strategy is not None:
            loss = None if trial.score is None else value(trial.score, self._history.problem.objective)
            self._strategy.finish(trial.number, loss)

    def _next(self) -> Allocation | None:
        history = self._history
        start = history.first_new(self._starts)
        if start is not None:
            return start
        rng = history.problem.generator(history.number)
        drawn, best = draw_new(history, rng), history.best()
        if drawn is None or best is None or history.number < (len(self._starts) or FIRST):
            return drawn
        return self._proposal(best, rng) or drawn

    def _proposal(self, best: Trial, rng: np.random.Generator) -> Allocation | None:
        """What the strategy draws, or a neighbour of it if that was proposed before; None if those were, too."""
        history, names = self._history, self._history.problem.space.names
        if self._strategy is None or self._multipliers is None:
            assert best.score is not None
            self._multipliers = Multipliers(names, best.candidate.allocation)
            self._strategy = CovarianceAdaptation(names, value(best.score, history.problem.objective))
        point = self._strategy.sample(history.number, rng)
        allocation = history.problem.project(self._multipliers.widths(point))
        return allocation if allocation not in history else new_neighbour(history, allocation, rng, _NEIGHBOURS)


def _cross(best: NDArray[np.float64], proposed: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """`best` with each coordinate taken from `proposed` with probability `SHARE`, at least one of them."""
    taken = rng.random(len(best)) < SHARE
    taken[rng.integers(len(best))] = True
    return np.where(taken, proposed, best)
