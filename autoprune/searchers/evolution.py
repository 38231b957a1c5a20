"""Evolution by trades of width: the best candidate so far gives the offspring, and only a better one takes its place.

Source: EvoPress, Sieberling et al. 2024, arXiv:2410.14649, algorithm 1: a (1 + λ) strategy whose mutation switches
levels between units so that the budget is kept, mostly few of them (the lesser of two draws). We differ:

- Widths have many levels, so a trade may cross several of them. Its reach grows when an offspring is better and shrinks
  when it is not, so that about one in five is better (Rechenberg's rule): far from its goal a search takes strides,
  near it steps.
- There are no generations: each result counts when it comes, in any order, so every slot stays busy.
- It begins with the standard starts, each judged, not with draws; without any it begins with `FIRST` draws.
- No allocation is judged twice under the same settings.
- Where settings are searched along, `RETUNED` of the offspring keep their parent's widths and have another value for
  one setting, so that what is better is known to be so by the one or by the other.
- EvoPress judges a generation on growing subsets of the data and keeps the better part each time, so that losers cost
  little. Here every offspring is compared with its parent after some of the samples, and dropped if it is clearly
  worse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base.coordinates import Point, move_settings
from autoprune.searchers.base.moves import trades
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.warm_started import WarmStartedSearcher

PAIRS = 3
"""The most trades in one mutation."""
REACH = (0.05, 0.3, 0.5)
"""The least, the first and the greatest share of a group's levels that a trade may cross."""
RETUNED = 0.5
"""The share of the offspring that differ from their parent in a setting, where any is searched.

A third of them, or a fifth, found less within 50 trials on the synthetic landscapes that `sampled.PROBES` is from.
"""
_GROW, _SHRINK = 1.6, 0.89  # one success makes up for four failures
_DRAWS = 50


def mutants(
    problem: SearchProblem, parent: Allocation, rng: np.random.Generator, reach: float, count: int
) -> list[Allocation]:
    """The parent after one to `PAIRS` trades, few more often than many; so many times."""
    pairs = (int(rng.integers(1, PAIRS + 1, size=2).min()) for _ in range(count))
    return trades(problem, parent, rng, reach, pairs)


def is_retuned(problem: SearchProblem, rng: np.random.Generator) -> bool:
    """Whether an offspring differs from its parent in a setting; nothing is drawn where none is searched."""
    return bool(problem.space.settings) and rng.random() < RETUNED


def retuned(problem: SearchProblem, parent: Candidate, rng: np.random.Generator) -> Point:
    """The parent's widths with another value for one setting."""
    return Point(parent.allocation, move_settings(problem.space.settings, parent.settings, rng))


class Evolution(WarmStartedSearcher):
    """Proposes the starts, then mutants of the best; never the same twice."""

    handles_settings = True
    stops_early = True

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        super().__init__(problem, starts)
        self._reach = REACH[1]
        self._retuned: set[int] = set()

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        if trial.number >= self._opening and trial.number not in self._retuned:
            better = self._history.best() is trial
            self._reach = float(np.clip(self._reach * (_GROW if better else _SHRINK), REACH[0], REACH[2]))

    def _go_on(self, best: Trial, rng: np.random.Generator) -> Point | None:
        history = self._history
        if is_retuned(history.problem, rng):
            found = history.first_new(retuned(history.problem, best.candidate, rng) for _ in range(_DRAWS))
            if found is not None:
                self._retuned.add(history.number)
                return found
        return history.first_new(self._mutant(best.candidate, rng) for _ in range(_DRAWS))

    def _mutant(self, parent: Candidate, rng: np.random.Generator) -> Point:
        (found,) = mutants(self._history.problem, parent.allocation, rng, self._reach, 1)
        return Point(found, parent.settings)
