"""Evolution by trades of width: the best candidate so far gives the offspring, and only a better one takes its place.

Source: EvoPress, Sieberling et al. 2024, arXiv:2410.14649, algorithm 1: a (1 + λ) strategy whose mutation switches
levels between units so that the budget is kept, mostly few of them (the lesser of two draws). We differ:

- Widths have many levels, so a trade may cross several of them. Its reach grows when an offspring is better and shrinks
  when it is not, so that about one in five is better (Rechenberg's rule): far from its goal a search takes strides,
  near it steps.
- There are no generations: each result counts when it comes, in any order, so every slot stays busy.
- It begins with the standard starts, each judged, not with draws; without any it begins with `FIRST` draws.
- No allocation is judged twice.
- EvoPress judges a generation on growing subsets of the data and keeps the better part each time, so that losers cost
  little. Here every offspring is compared with its parent after some of the images, and dropped if it is clearly worse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Trial
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.moves import trade
from autoprune.searchers.opened import Opened

PAIRS = 3
"""The most trades in one mutation."""
REACH = (0.05, 0.3, 0.5)
"""The least, the first and the greatest share of a group's levels that a trade may cross."""
_GROW, _SHRINK = 1.6, 0.89  # one success makes up for four failures
_DRAWS = 50


def mutant(problem: SearchProblem, parent: Allocation, rng: np.random.Generator, reach: float) -> Allocation:
    """The parent after one to `PAIRS` trades, few more often than many."""
    pairs = int(rng.integers(1, PAIRS + 1, size=2).min())
    return trade(problem, parent, rng, reach, pairs)


class Evolution(Opened):
    """Proposes the starts, then mutants of the best; never the same twice."""

    races = True

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        super().__init__(problem, starts)
        self._reach = REACH[1]

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        if trial.number >= self._opening:
            better = self._history.best() is trial
            self._reach = float(np.clip(self._reach * (_GROW if better else _SHRINK), REACH[0], REACH[2]))

    def _go_on(self, best: Trial, rng: np.random.Generator) -> Allocation | None:
        problem, parent = self._history.problem, best.candidate.allocation
        return self._history.first_new(mutant(problem, parent, rng, self._reach) for _ in range(_DRAWS))
