"""Simulated annealing on the limits: a walk of small trades that accepts less and less of what is worse.

Source: Kirkpatrick, Gelatt and Vecchi 1983, "Optimization by Simulated Annealing", Science 220. The first temperature
is that at which half of the worse steps are accepted: the median rise among the first steps, over ln 2. Temperature
falls geometrically with what is used of the trials or of the work, down to `END` of the first at the end, and the steps
with it: fewer trades of width, which cross fewer levels.

The walk begins at the best start. Each result is compared, when it comes, with where the walk then stands, whatever it
was a neighbour of, at the temperature of its own number and with a draw of its own number (Metropolis' rule: a rise is
accepted with probability exp(-rise / temperature)). So several neighbours run at once, and any order of results is a
walk. Failures move nothing. No allocation is judged twice.

The draw is made when a candidate is proposed, so it is known then up to which value it would be accepted; one that is
clearly above that after some of the samples is dropped there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Trial
from autoprune.searchers.base.history import StopThresholds
from autoprune.searchers.base.moves import trade
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.warm_started import WarmStartedSearcher

END = 1e-4
REACH = (0.05, 0.2)
"""The share of a group's levels that a trade may cross, at the end and at first."""
_WARMING = 0.1
"""The share of the walk whose rises set the first temperature, at least `_LEAST` of them."""
_LEAST = 4
_DRAWS = 50


class Annealing(WarmStartedSearcher):
    """Proposes the starts, then neighbours of where the walk stands; never the same twice."""

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        super().__init__(problem, starts)
        self._at: Trial | None = None
        self._rises: list[float] = []

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        if trial.score is None:
            return
        rise = math.inf if self._at is None else self._value(trial) - self._value(self._at)
        if self._at is None or rise <= 0 or self._accepts(trial.number, rise):
            self._at = trial
        if 0 < rise < math.inf and self._is_warming(trial.number):
            self._rises.append(rise)

    def _value(self, trial: Trial) -> float:
        assert trial.score is not None
        return self._history.value(trial.score)

    def _walked(self, number: int) -> float:
        """How much of the walk was over when a candidate was asked for; that of the next is known, too. In [0, 1]."""
        progress = [*self._history.progress, self._history.elapsed]
        begun = progress[min(self._opening, len(progress) - 1)]
        return min(max((progress[number] - begun) / max(1.0 - begun, 1e-9), 0.0), 1.0)

    def _is_warming(self, number: int) -> bool:
        """Whether the rise to a neighbour tells of the first temperature."""
        return number >= self._opening and (len(self._rises) < _LEAST or self._walked(number) < _WARMING)

    def _accepts(self, number: int, rise: float) -> bool:
        return rise < self._climbs(number)

    def _climbs(self, number: int) -> float:
        """Up to which rise a candidate is accepted by its draw: 0 before the first temperature is known."""
        if number < self._opening or self._is_warming(number):
            return 0.0
        temperature = float(np.median(self._rises)) / math.log(2) * END ** self._walked(number)
        draw = np.random.default_rng([self._history.problem.seed, number, 1]).random()
        return float(-temperature * math.log(draw)) if draw > 0 else math.inf

    def _stop_thresholds(self) -> StopThresholds:
        """None where the rise itself is wanted."""
        number = self._history.number
        if number < self._opening or self._is_warming(number):
            return ()
        return self._history.stop_thresholds(self._at, self._climbs(number))

    def _go_on(self, best: Trial, rng: np.random.Generator) -> Allocation | None:
        assert self._at is not None, "the walk stands at the first trial that has a score, if at no better one"
        return self._neighbour(self._at.candidate.allocation, rng)

    def _neighbour(self, at: Allocation, rng: np.random.Generator) -> Allocation | None:
        """A new allocation one or two trades away, or None if `_DRAWS` in a row were known."""
        cooled = END ** self._walked(self._history.number)
        reach = REACH[0] + (REACH[1] - REACH[0]) * math.sqrt(cooled)
        for _ in range(_DRAWS):
            pairs = 1 + int(rng.random() < math.sqrt(cooled))
            found = trade(self._history.problem, at, rng, reach, pairs)
            if found not in self._history:
                return found
        return None
