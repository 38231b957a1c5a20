"""Evolution by trades of width: the best candidate so far gives the offspring, and only a better one takes its place.

Source: EvoPress, Sieberling et al. 2024, arXiv:2410.14649, algorithm 1: a (1 + λ) strategy whose mutation switches
levels between units so that the budget is kept, mostly few of them (the lesser of two draws). We differ:

- Widths have many levels, so a trade may cross several of them. Its reach grows when an offspring is better and shrinks
  when it is not, so that about one in five is better (Rechenberg's rule): far from its goal a search takes strides,
  near it steps.
- There are no generations: each result counts when it comes, in any order, so every slot stays busy.
- It begins with the standard starts, each evaluated, not with draws.
- No allocation is evaluated twice under the same settings.
- Where settings are searched along, `SETTING_SHARE` of the offspring keep their parent's widths and have another value
  for one setting, so that what is better is known to be so by the one or by the other.
- EvoPress evaluates a generation on growing subsets of the data and keeps the better part each time, so that losers
  cost little. Here every offspring is compared with its parent after some of the samples, and dropped if it is clearly
  worse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base.coordinates import Point, StopThresholds, move_settings
from autoprune.searchers.base.moves import REACH, mutants
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.sequential import WarmStartedSearcher
from autoprune.searchers.knapsack import standard_starts

SETTING_SHARE = 0.5
"""The share of the offspring that differ from their parent in a setting, where any is searched.

A third of them, or a fifth, found less within 50 trials on the synthetic landscapes that `optuna_samplers.PROBES` is
from.
"""
_GROW, _SHRINK = 1.6, 0.89  # one success makes up for four failures
_DRAWS = 50


def changes_setting(problem: SearchProblem, rng: np.random.Generator) -> bool:
    """Draws whether an offspring differs from its parent in a setting; draws nothing where none is searched."""
    return bool(problem.space.settings) and rng.random() < SETTING_SHARE


def with_other_setting(problem: SearchProblem, parent: Candidate, rng: np.random.Generator) -> Point:
    """Returns the parent's widths with another value for one setting.

    Args:
        problem: whose settings are searched.
        parent: has a value for each of them.
        rng: of the choice of a setting and of its value.
    """
    return Point(parent.allocation, move_settings(problem.space.settings, parent.settings, rng))


class Evolution(WarmStartedSearcher):
    """Proposes the starts, then mutants of the best; never the same twice."""

    handles_settings = True

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, standard_starts(problem))
        self._reach = REACH[1]
        self._best = (math.inf, -1)  # value and number: of equal values the earlier number is better
        self._with_other_setting: set[int] = set()

    def _learn(self, told: Sequence[Trial]) -> None:
        """Adapts the reach to whether a trial is better than all that were told before it."""
        for trial in told:
            best = self._best
            if trial.score is not None:
                self._best = min(best, (self._history.value_of(trial), trial.number))
            if trial.number >= len(self._starts) and trial.number not in self._with_other_setting:
                changed = self._reach * (_GROW if self._best < best else _SHRINK)
                self._reach = float(np.clip(changed, REACH[0], REACH[2]))

    def _stop_thresholds(self) -> StopThresholds:
        return self._history.stop_thresholds(self._history.best())

    def _go_on(self, best: Trial, rng: np.random.Generator) -> Point | None:
        history, parent = self._history, best.candidate
        if changes_setting(history.problem, rng):
            found = history.first_new(with_other_setting(history.problem, parent, rng) for _ in range(_DRAWS))
            if found is not None:
                self._with_other_setting.add(history.number)
                return found
        return history.first_new(
            Point(mutants(history.problem, parent.allocation, rng, self._reach, 1)[0], parent.settings)
            for _ in range(_DRAWS)
        )
