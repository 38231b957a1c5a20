"""The tree-structured Parzen estimator and a Gaussian process, in the space of allocations that keep the limits.

Source: Bergstra et al. 2011 (NeurIPS 24); multivariate, after Falkner et al. 2018, arXiv:1807.01774; candidates that
still run count as bad (constant liar, Ginsbourger et al. 2010). Optuna's estimator; we differ:

- It sees each candidate at the widths that the projection realised, not at those that it proposed.
- Fifty trials cannot fill dozens of dimensions, so a proposal takes each group from the estimator with probability
  `SHARE` and from the best candidate so far otherwise, as DYCORS does (Regis and Shoemaker 2013,
  doi:10.1080/0305215X.2012.687731; there the share falls with time). On synthetic landscapes of 12 and 27 groups that
  took a fifth to two fifths off the mean regret; more candidates per proposal than Optuna's 24 did not help reliably.
- Settings that are searched along are further dimensions, of which a choice is one of categories.
- It begins with allocations worth an evaluation, and draws at random only until `FIRST` candidates have scores.
- It searches widths. A multiplier for each group on the knapsack's losses, with points decoded by solving that (2 to
  20 ms), is aware of the curves, but whatever changes one group moves all others: on synthetic landscapes, some with
  misleading curves, the mean regret was 1.05 times as large after 50 trials and 1.7 times after 100.
- It knows the best and the newest `KEPT` trials and those since the last selection, 100 at most, so that a proposal
  after 1,500 trials takes as long as one after 100. (On two synthetic landscapes, three seeds of 400 trials, the mean
  regret was 0.0012 with it and 0.0001 without, that of the uniform allocations 0.06 and 0.13.)
- The sampler is seeded anew for every proposal from (seed, number, attempt), so that a replay goes on as the unbroken
  run would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from autoprune.core.costs import Floats
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base.coordinates import Coordinates, Point, StopThresholds, draw_settings
from autoprune.searchers.base.moves import new_neighbour
from autoprune.searchers.base.optuna_studies import Study, gp_sampler, tpe_sampler
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.sequential import WarmStartedSearcher
from autoprune.searchers.knapsack import standard_starts

FIRST = 6
"""How many candidates must have scores before the sampler is asked."""
SHARE = 0.3
"""The probability with which a coordinate of a proposal comes from the sampler."""
PROBES = 4
"""How many candidates after the starts have the best start's widths under settings drawn at random.

All starts have the same settings, so nothing is known of others yet. On two synthetic landscapes with three settings
(six seeds of 50 trials, logarithms of the best loss over the least) these four took 0.25 and 0.37 to 0.05 and 0.26.
"""
_ATTEMPTS = 4


class _SamplingSearcher(WarmStartedSearcher):
    """Proposes the starts, a few random draws, then what a study's sampler expects to be good; never the same twice.

    A proposal takes each group and each setting from the sampler with probability `SHARE` and from the best candidate
    so far otherwise. Where settings are searched, `PROBES` of them under the widths of the best start come before.

    Attributes:
        make_sampler: from a seed to the sampler of one proposal.
        logarithmic: whether it is told the logarithms of the values.
    """

    handles_settings = True
    make_sampler: ClassVar[Callable[[int], Any]]
    logarithmic: ClassVar[bool]

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, standard_starts(problem))
        self._coordinates = Coordinates(problem)
        self._study = Study(
            self._coordinates.names, type(self).make_sampler, self._coordinates.choices, self.logarithmic
        )
        self._added = 0

    def _learn(self, told: Sequence[Trial]) -> None:
        for candidate in self._history.asked[self._added :]:
            self._study.add(candidate.number, self._coordinates.of(candidate.allocation, candidate.settings))
        self._added = self._history.number
        for trial in told:
            self._study.finish(trial.number, None if trial.score is None else self._history.value(trial.score))

    def _stop_thresholds(self) -> StopThresholds:
        return ()

    def _go_on(self, best: Trial, rng: np.random.Generator) -> Point | None:
        history, at = self._history, best.candidate
        settings = history.problem.space.settings
        if settings and history.number < len(self._starts) + PROBES:
            return history.first_new(Point(at.allocation, draw_settings(settings, rng)) for _ in range(_ATTEMPTS))
        if sum(trial.score is not None for trial in history.told.values()) < FIRST:
            return None
        return self._crossed(at) or new_neighbour(history, Point(at.allocation, at.settings), rng)

    def _crossed(self, best: Candidate) -> Point | None:
        """Returns the first new one among a few crossings of the best candidate with the sampler's proposals."""
        problem, at = self._history.problem, self._coordinates.of(best.allocation, best.settings)
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([problem.seed, self._history.number, attempt])
            found = self._coordinates.realised(_cross(at, self._study.sample(rng), rng))
            if found not in self._history:
                return found
        return None


def _cross(best: Floats, proposed: Floats, rng: np.random.Generator) -> Floats:
    """Returns `best` with each coordinate taken from `proposed` with probability `SHARE`, at least one of them."""
    taken = rng.random(len(best)) < SHARE
    taken[rng.integers(len(best))] = True
    return np.where(taken, proposed, best)


class Tpe(_SamplingSearcher):
    """Samples with the tree-structured Parzen estimator."""

    make_sampler = tpe_sampler
    logarithmic = False


class Gp(_SamplingSearcher):
    """Samples with the Gaussian process, which is told logarithms."""

    make_sampler = gp_sampler
    logarithmic = True
