"""Simulated annealing on the limits: a walk of small trades that accepts less and less of what is worse.

Source: Kirkpatrick, Gelatt and Vecchi 1983, "Optimization by Simulated Annealing", Science 220. The first temperature
is that at which half of the worse steps are accepted: the median rise among the first steps, over ln 2. Temperature
falls geometrically with what is used of the trials or of the work, down to `FINAL_TEMPERATURE` of the first at the end,
and the steps with it: fewer trades of width, which cross fewer levels.

The walk begins at the best start. Each result is compared, when it comes, with where the walk then stands, whatever it
was a neighbour of, at the temperature of its own number and with a draw of its own number (Metropolis' rule: a rise is
accepted with probability exp(-rise / temperature)). So several neighbours run at once, and any order of results is a
walk. Failures move nothing. No allocation is evaluated twice.

The draw is made when a candidate is proposed, so it is known then up to which value it would be accepted; one that is
clearly above that after some of the samples is dropped there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Trial
from autoprune.searchers.base.coordinates import StopThresholds
from autoprune.searchers.base.moves import trades
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.sequential import WarmStartedSearcher
from autoprune.searchers.knapsack import standard_starts

FINAL_TEMPERATURE = 1e-4
"""The last temperature, as a share of the first."""
REACH = (0.05, 0.2)
"""The share of a group's levels that a trade may cross, at the end and at first."""
_WARMING = 0.1
"""The share of the walk whose rises set the first temperature, at least `_LEAST` of them."""
_LEAST = 4
_DRAWS = 50


class Annealing(WarmStartedSearcher):
    """Proposes the starts, then neighbours of where the walk stands; never the same twice.

    Args:
        starts: allocations to begin with, which are projected; None takes the standard ones.
    """

    handles_settings = False

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        chosen = standard_starts(problem) if starts is None else tuple(dict.fromkeys(map(problem.project, starts)))
        super().__init__(problem, chosen)
        self._current: Trial | None = None
        self._rises: list[float] = []
        self._usual_rise = math.nan

    def _learn(self, told: Sequence[Trial]) -> None:
        """Moves the walk to the trials by Metropolis' rule."""
        value = self._history.value_of
        for trial in told:
            if trial.score is None:
                continue
            rise = math.inf if self._current is None else value(trial) - value(self._current)
            if self._current is None or rise <= 0 or rise < self._accepted_rise(trial.number):
                self._current = trial
            if 0 < rise < math.inf and self._is_warming(trial.number):
                self._rises.append(rise)
                self._usual_rise = float(np.median(self._rises))

    def _progress(self, number: int) -> float:
        """Returns how much of the walk was over when a candidate, or the next one, was asked for; in [0, 1]."""
        begun = self._history.progress_of(min(len(self._starts), self._history.number))
        return min(max((self._history.progress_of(number) - begun) / max(1.0 - begun, 1e-9), 0.0), 1.0)

    def _is_warming(self, number: int) -> bool:
        """Returns whether the rise to a neighbour counts for the first temperature."""
        return number >= len(self._starts) and (len(self._rises) < _LEAST or self._progress(number) < _WARMING)

    def _accepted_rise(self, number: int) -> float:
        """Returns the rise up to which a candidate is accepted by its draw: 0 before the first temperature is known."""
        if number < len(self._starts) or self._is_warming(number):
            return 0.0
        temperature = self._usual_rise / math.log(2) * FINAL_TEMPERATURE ** self._progress(number)
        draw = np.random.default_rng([self._history.problem.seed, number, 1]).random()
        return float(-temperature * math.log(draw)) if draw > 0 else math.inf

    def _stop_thresholds(self) -> StopThresholds:
        """Returns no thresholds where the rise itself is wanted."""
        number = self._history.number
        if self._is_warming(number):
            return ()
        return self._history.stop_thresholds(self._current, self._accepted_rise(number))

    def _go_on(self, best: Trial, rng: np.random.Generator) -> Allocation | None:
        """Returns a new allocation one or two trades away, or None if `_DRAWS` in a row were known."""
        assert self._current is not None, "the walk stands at the first trial that has a score, if at no better one"
        problem, at = self._history.problem, self._current.candidate.allocation
        cooled = FINAL_TEMPERATURE ** self._progress(self._history.number)
        reach = REACH[0] + (REACH[1] - REACH[0]) * math.sqrt(cooled)
        return self._history.first_new(
            trades(problem, at, rng, reach, [1 + int(rng.random() < math.sqrt(cooled))])[0] for _ in range(_DRAWS)
        )
