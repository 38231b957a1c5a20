"""What searches share that begin with allocations worth an evaluation and go on from what their trials say."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Trial
from autoprune.searchers.base.coordinates import Proposal
from autoprune.searchers.base.history import SequentialSearcher, StopThresholds
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.controls import draw_new, uniform_allocation
from autoprune.searchers.knapsack import EXPONENTS, knapsack_allocation
from autoprune.searchers.threshold import threshold_allocation

FIRST = 6
"""How many draws stand in for the starts where there are none."""


class WarmStartedSearcher(SequentialSearcher):
    """Proposes its starts, then what `_go_on` finds, or a draw where that finds nothing; never the same twice.

    Args:
        starts: allocations to begin with, under the default settings; None takes the standard ones (uniform, threshold,
            knapsacks).

    Attributes:
        stops_early: whether a candidate is dropped where it is clearly worse than the best after some of the samples;
            the starts are evaluated on all.
    """

    uses_curves: ClassVar[bool] = True
    handles_settings: ClassVar[bool] = False
    stops_early: ClassVar[bool] = False

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        super().__init__(problem)
        self._starts = opening(problem, starts)

    @property
    def _opening(self) -> int:
        """How many candidates come before the first that `_go_on` finds."""
        return len(self._starts) or FIRST

    def _stop_thresholds(self) -> StopThresholds:
        if not self.stops_early or self._history.number < self._opening:
            return ()
        return self._history.stop_thresholds(self._history.best())

    def _next(self) -> Proposal | None:
        history = self._history
        start = history.first_new(self._starts)
        if start is not None:
            return start
        rng, best = history.problem.generator(history.number), history.best()
        if best is not None and history.number >= self._opening:
            found = self._go_on(best, rng)
            if found is not None:
                return found
        return draw_new(history, rng, self.handles_settings)

    @abstractmethod
    def _go_on(self, best: Trial, rng: np.random.Generator) -> Proposal | None:
        """Something new, or None if nothing was found.

        Args:
            best: the best trial so far.
            rng: the draws of this candidate.
        """


def starts(problem: SearchProblem) -> tuple[Allocation, ...]:
    """Uniform and, for each criterion's curves, threshold and the knapsacks of several exponents; those that differ."""
    found = [uniform_allocation(problem)]
    for curves in problem.curves.values():
        found.append(threshold_allocation(problem, curves))
        found.extend(knapsack_allocation(problem, curves, exponent) for exponent in EXPONENTS)
    return tuple(dict.fromkeys(found))


def opening(problem: SearchProblem, given: Sequence[Allocation] | None) -> tuple[Allocation, ...]:
    """The allocations that a search begins with: the standard ones for None, else the given ones, projected."""
    chosen = starts(problem) if given is None else [problem.project(allocation) for allocation in given]
    return tuple(dict.fromkeys(chosen))
