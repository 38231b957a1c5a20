"""The best of several starts, then what a model of all trials so far expects most of, near the best of them.

Uniform, threshold and the knapsacks of several exponents are judged, because none is the best on every network. Then a
Gaussian process is fitted to all trials (see `surrogate`), and a candidate is sought in it as `evolution` seeks one in
the network: mutants of the best trial, mutants of the best of these, and so on (see `climbing`); the one of least lower
bound is judged. Every third time it is sought from elsewhere, from the one of least bound among `DRAWS` random draws,
so that a basin is left where another promises more. All that takes a tenth of a second or two.

Source: Bayesian optimisation by a lower confidence bound (Srinivas et al. 2010, "Gaussian Process Optimization in the
Bandit Setting", ICML), the bound searched locally from the best trial as in SMAC (Hutter, Hoos and Leyton-Brown 2011,
"Sequential Model-Based Optimization for General Algorithm Configuration", LION 5). We differ in the mutations, which
stay on the budget, and as `evolution` does in dropping what is clearly worse than the best after some of the images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.climbing import DARING, climb
from autoprune.searchers.evolution import FIRST
from autoprune.searchers.history import Bars, History, ask_repeatedly
from autoprune.searchers.random import draw, draw_new
from autoprune.searchers.starts import opening
from autoprune.searchers.surrogate import Surrogate

ELSEWHERE = 3
"""Every so many candidates one is sought from elsewhere than the best trial."""
DRAWS = 100


class Auto:
    """Proposes the starts, then what the model expects most of; never the same twice.

    Args:
        starts: allocations to begin with; None takes the standard ones (uniform, threshold, knapsacks).
    """

    uses_curves = True

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        self._history = History(problem)
        self._starts = opening(problem, starts)
        self._surrogate = Surrogate(self._history)

    def ask(self, limit: int) -> Sequence[Candidate]:
        return ask_repeatedly(self._history, limit, self._next, self._bars)

    def tell(self, trial: Trial) -> None:
        self._history.tell(trial)

    @property
    def _opening(self) -> int:
        """How many candidates come before the model's first."""
        return len(self._starts) or FIRST

    def _bars(self) -> Bars:
        """What the best candidate was worth after some of the images; the starts are judged on all."""
        return () if self._history.number < self._opening else self._history.bars(self._history.best())

    def _next(self) -> Allocation | None:
        history = self._history
        start = history.first_new(self._starts)
        if start is not None:
            return start
        problem, rng = history.problem, history.problem.generator(history.number)
        best = history.best()
        if best is None or history.number < self._opening:
            return draw_new(history, rng)
        bound, parent = self._surrogate.fitted(), best.candidate.allocation
        if bound is not None and history.number % ELSEWHERE == 0:
            draws = [draw(problem, rng) for _ in range(DRAWS)]
            parent = draws[int(np.argmin(np.round(bound(draws, DARING), 9)))]
        return history.first_new(climb(problem, parent, bound, rng)) or draw_new(history, rng)
