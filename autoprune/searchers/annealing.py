"""Simulated annealing on the limits: a walk of small trades that accepts less and less of what is worse.

Source: Kirkpatrick, Gelatt and Vecchi 1983, "Optimization by Simulated Annealing", Science 220. The first temperature
is that at which half of the worse steps are accepted: the median rise among the first steps, over ln 2. Temperature
falls geometrically with the number of the candidate, down to `END` of the first at the last, and the steps with it:
fewer trades of width, which cross fewer levels.

The walk begins at the best start. Each result is compared, when it comes, with where the walk then stands, whatever it
was a neighbour of, at the temperature of its own number and with a draw of its own number (Metropolis' rule: a rise is
accepted with probability exp(-rise / temperature)). So several neighbours run at once, and any order of results is a
walk. Failures move nothing. No allocation is judged twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Trial, value
from autoprune.searchers.base import History, SearchProblem, ask_repeatedly
from autoprune.searchers.moves import trade
from autoprune.searchers.random import draw_new
from autoprune.searchers.starts import opening

FIRST = 6
END = 1e-4
REACH = (0.05, 0.2)
"""The share of a group's levels that a trade may cross, at the end and at first."""
_WARMING = 0.1
"""The share of the trials whose rises set the first temperature, at least `_LEAST` of them."""
_LEAST = 4
_DRAWS = 50


class Annealing:
    """Proposes the starts, then neighbours of where the walk stands; never the same twice.

    Args:
        starts: allocations to begin with; None takes the standard ones (uniform, threshold, knapsacks).
    """

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        self._history = History(problem)
        self._starts = opening(problem, starts)
        self._at: Trial | None = None
        self._rises: list[float] = []

    def ask(self, limit: int) -> Sequence[Candidate]:
        return ask_repeatedly(self._history, limit, self._next)

    def tell(self, trial: Trial) -> None:
        self._history.tell(trial)
        if trial.score is None:
            return
        rise = math.inf if self._at is None else self._value(trial) - self._value(self._at)
        if self._at is None or rise <= 0 or self._accepts(trial.number, rise):
            self._at = trial
        if trial.number >= self._opening and 0 < rise < math.inf and len(self._rises) < self._warming:
            self._rises.append(rise)

    def _value(self, trial: Trial) -> float:
        assert trial.score is not None
        return value(trial.score, self._history.problem.objective)

    @property
    def _opening(self) -> int:
        """How many candidates come before the first neighbour."""
        return len(self._starts) or FIRST

    @property
    def _warming(self) -> int:
        return max(_LEAST, round(_WARMING * self._history.problem.trials))

    def _cooled(self, number: int) -> float:
        """The temperature at a candidate's number, as a share of the first."""
        steps = max(self._history.problem.trials - 1 - self._opening, 1)
        return float(END ** min(max((number - self._opening) / steps, 0.0), 1.0))

    def _accepts(self, number: int, rise: float) -> bool:
        """Whether a step up is taken: never before the first temperature is known."""
        if number < self._opening or len(self._rises) < self._warming:
            return False
        temperature = float(np.median(self._rises)) / math.log(2) * self._cooled(number)
        draw = np.random.default_rng([self._history.problem.seed, number, 1]).random()
        return bool(draw < math.exp(-rise / temperature))

    def _next(self) -> Allocation | None:
        history = self._history
        start = history.first_new(self._starts)
        if start is not None:
            return start
        rng = history.problem.generator(history.number)
        if self._at is None or history.number < self._opening:
            return draw_new(history, rng)
        return self._neighbour(self._at.candidate.allocation, rng) or draw_new(history, rng)

    def _neighbour(self, at: Allocation, rng: np.random.Generator) -> Allocation | None:
        """A new allocation one or two trades away, or None if `_DRAWS` in a row were known."""
        cooled = self._cooled(self._history.number)
        reach = REACH[0] + (REACH[1] - REACH[0]) * math.sqrt(cooled)
        for _ in range(_DRAWS):
            pairs = 1 + int(rng.random() < math.sqrt(cooled))
            found = trade(self._history.problem, at, rng, reach, pairs)
            if found not in self._history:
                return found
        return None
