"""The best of several starts, then what a model of all trials so far expects most of, near the best of them.

Uniform, threshold and the knapsacks of several exponents are evaluated, because none is the best on every network. Then
a Gaussian process is fitted to all trials (see `surrogate`), and a candidate is sought in it as `evolution` seeks one
in the network: mutants of the best trial, mutants of the best of these, and so on (see `climb`); the one of least lower
bound is evaluated. Every third time it is sought from elsewhere, from the one of least bound among `DRAWS` random
draws, so that a basin is left where another promises more. All that takes a tenth of a second or two.

Where settings are searched along, half of the candidates are as in `evolution` the best trial's allocation with another
value for one setting. By how much that changed the loss of this one allocation is taken to hold for all, so that trials
under any settings are modelled together (on the synthetic landscapes that `optuna_samplers.PROBES` is from, three
seeds, this took 0.02 and 0.22 without it to 0.01 and 0.16; `evolution` came to 0.02 and 0.20).

Source: Bayesian optimisation by a lower confidence bound (Srinivas et al. 2010, "Gaussian Process Optimization in the
Bandit Setting", ICML), the bound searched locally from the best trial as in SMAC (Hutter, Hoos and Leyton-Brown 2011,
"Sequential Model-Based Optimization for General Algorithm Configuration", LION 5). We differ in the mutations, which
stay on the budget, and as `evolution` does in dropping what is clearly worse than the best after some of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.trial import Setting, Trial
from autoprune.searchers.base.coordinates import Point, Proposal, Settings, StopThresholds
from autoprune.searchers.base.moves import draws
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.sequential import WarmStartedSearcher
from autoprune.searchers.base.surrogate import DEVIATIONS, Surrogate, climb
from autoprune.searchers.evolution import changes_setting, with_other_setting
from autoprune.searchers.knapsack import standard_starts

ELSEWHERE = 3
"""Every so many candidates one is sought from elsewhere than the best trial."""
DRAWS = 100
_OTHER_SETTINGS = 20

Key = frozenset[tuple[str, Setting]]


class Auto(WarmStartedSearcher):
    """Proposes the starts, then what the model expects most of; never the same twice."""

    handles_settings = True

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, standard_starts(problem))
        self._surrogate = Surrogate(self._history, factor=lambda settings: self._factors.get(_key(settings), 1.0))
        self._parents: dict[int, Trial] = {}
        self._factors: dict[Key, float] = {}

    def _learn(self, told: Sequence[Trial]) -> None:
        """Records by what factor a trial's other setting changed the loss of its parent."""
        for trial in told:
            parent = self._parents.get(trial.number)
            if parent is None or trial.score is None:
                continue
            before, after = self._history.value_of(parent), self._history.value_of(trial)
            if min(before, after) > 0:
                factor = self._factors.get(_key(parent.candidate.settings), 1.0) * after / before
                self._factors.setdefault(_key(trial.candidate.settings), factor)

    def _stop_thresholds(self) -> StopThresholds:
        return self._history.stop_thresholds(self._history.best())

    def _go_on(self, best: Trial, rng: np.random.Generator) -> Proposal | None:
        history, problem = self._history, self._history.problem
        if changes_setting(problem, rng):
            found = history.first_new(with_other_setting(problem, best.candidate, rng) for _ in range(_OTHER_SETTINGS))
            if found is not None:
                self._parents[history.number] = best
                return found
        bound, parent = self._surrogate.fitted(), best.candidate.allocation
        if bound is not None and history.number % ELSEWHERE == 0:
            drawn = draws(problem, rng, DRAWS)
            parent = drawn[int(np.argmin(np.round(bound(drawn, DEVIATIONS), 9)))]
        settings = best.candidate.settings
        return history.first_new(Point(each, settings) for each in climb(problem, parent, bound, rng))


def _key(settings: Settings) -> Key:
    return frozenset(settings.items())
