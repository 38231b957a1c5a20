"""What searches share whose proposals come from a sampler of points, taken on only in part."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Trial, value
from autoprune.searchers.base.coordinates import Coordinates, Floats, Point, Proposal, draw_settings
from autoprune.searchers.base.moves import new_neighbour
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.warm_started import FIRST, WarmStartedSearcher

SHARE = 0.3
PROBES = 4
"""How many candidates after the starts have the best start's widths under settings drawn at random.

All starts have the same settings, so nothing is known of others yet. On two synthetic landscapes with three settings
(six seeds of 50 trials, logarithms of the best loss over the least) these four took 0.25 and 0.37 to 0.05 and 0.26.
"""
_ATTEMPTS = 4
_NEIGHBOURS = 50


class Study(Protocol):
    """A sampler that is told of realised points."""

    def add(self, number: int, point: Floats) -> None:
        """Candidate `number` runs, at `point`."""

    def finish(self, number: int, loss: float | None) -> None:
        """Candidate `number` has a value, or None if it failed."""

    def sample(self, rng: np.random.Generator) -> Floats:
        """A proposal."""


class ModelBasedSearcher(WarmStartedSearcher):
    """Proposes the starts, a few random draws, then what its sampler expects to be good; never the same twice.

    A proposal takes each group and each setting from the sampler with probability `SHARE` and from the best candidate
    so far otherwise. Where settings are searched, `PROBES` of them under the widths of the best start come before.
    """

    handles_settings = True

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        super().__init__(problem, starts)
        self._coordinates = Coordinates(problem)
        self._study = self._make_study(self._coordinates)

    @abstractmethod
    def _make_study(self, coordinates: Coordinates) -> Study:
        """The sampler."""

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        loss = None if trial.score is None else value(trial.score, self._history.problem.objective)
        self._study.finish(trial.number, loss)

    def _next(self) -> Proposal | None:
        found = super()._next()
        if found is not None:
            point = found if isinstance(found, Point) else Point(found, self._history.problem.default_settings)
            self._study.add(self._history.number, self._coordinates.of(point.allocation, point.settings))
        return found

    def _go_on(self, best: Trial, rng: np.random.Generator) -> Proposal | None:
        history, at = self._history, best.candidate
        settings = history.problem.space.settings
        if settings and history.number < self._opening + PROBES:
            return history.first_new(Point(at.allocation, draw_settings(settings, rng)) for _ in range(_ATTEMPTS))
        if sum(trial.score is not None for trial in history.told.values()) < FIRST:
            return None
        return self._proposal(at) or new_neighbour(history, Point(at.allocation, at.settings), rng, _NEIGHBOURS)

    def _proposal(self, best: Candidate) -> Point | None:
        """The first new one among a few crossings of the best candidate with the sampler's proposals."""
        problem, at = self._history.problem, self._coordinates.of(best.allocation, best.settings)
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([problem.seed, self._history.number, attempt])
            found = self._coordinates.realised(problem, _cross(at, self._study.sample(rng), rng))
            if found not in self._history:
                return found
        return None


def _cross(best: Floats, proposed: Floats, rng: np.random.Generator) -> Floats:
    """`best` with each coordinate taken from `proposed` with probability `SHARE`, at least one of them."""
    taken = rng.random(len(best)) < SHARE
    taken[rng.integers(len(best))] = True
    return np.where(taken, proposed, best)
