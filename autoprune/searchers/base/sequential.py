"""Searchers that propose one candidate after the other, and those of them that begin with known allocations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base.coordinates import Proposal, StopThresholds
from autoprune.searchers.base.history import History
from autoprune.searchers.base.moves import draw_new
from autoprune.searchers.base.searcher import SearchProblem


class SequentialSearcher(ABC):
    """A searcher that proposes one candidate after the other, all from the dense network, never the same twice.

    What an algorithm adds is `_next`; what it learns from trials it reads there from its history.
    """

    uses_curves: ClassVar[bool]
    needs_curves: ClassVar[bool] = False
    handles_settings: ClassVar[bool]
    is_random: ClassVar[bool] = True
    works_in_rounds: ClassVar[bool] = False
    fills_budget: ClassVar[bool] = True
    parents: frozenset[int] = frozenset()
    remarks: tuple[str, ...] = ()
    failure: str | None = None

    def __init__(self, problem: SearchProblem) -> None:
        self._history = History(problem)
        if problem.rounds is not None:
            unused = "search.rounds is not used: this searcher does not work in rounds, as netadapt and autocompress do"
            self.remarks = (unused,)

    @abstractmethod
    def _next(self) -> Proposal | None:
        """Returns a new allocation, perhaps with settings and stop thresholds, or None if there is none now."""

    def ask(self, limit: int) -> Sequence[Candidate]:
        asked: list[Candidate] = []
        while len(asked) < limit and not self._history.full and (found := self._next()) is not None:
            asked.append(self._history.propose(found))
        return asked

    def tell(self, trial: Trial) -> None:
        self._history.tell(trial)


class FixedListSearcher(SequentialSearcher):
    """A searcher whose allocations are known from the beginning; it proposes those that differ."""

    handles_settings = False
    is_random = False

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._allocations = self._list(problem)

    @abstractmethod
    def _list(self, problem: SearchProblem) -> Sequence[Allocation]:
        """Returns the allocations to be proposed, in order."""

    def _next(self) -> Allocation | None:
        return self._history.first_new(self._allocations)


class WarmStartedSearcher(SequentialSearcher):
    """A searcher that begins with allocations worth an evaluation, and goes on from what their trials say.

    Args:
        starts: allocations to begin with, under the default settings, evaluated on all samples.
    """

    uses_curves = True

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation]) -> None:
        super().__init__(problem)
        self._starts = starts

    @abstractmethod
    def _learn(self, told: Sequence[Trial]) -> None:
        """Takes the trials told since the last proposal, in the order told."""

    @abstractmethod
    def _go_on(self, best: Trial, rng: np.random.Generator) -> Proposal | None:
        """Returns a new proposal after the starts, from the best trial so far; None leaves it to a random draw."""

    @abstractmethod
    def _stop_thresholds(self) -> StopThresholds:
        """Returns those of a candidate after the starts."""

    def _next(self) -> Proposal | None:
        history = self._history
        self._learn(history.unread())
        start = history.first_new(self._starts)
        if start is not None:
            return start
        rng, best = history.problem.generator(history.number), history.best()
        begun = history.number >= len(self._starts)
        found = self._go_on(best, rng) if begun and best is not None else None
        if found is None:
            found = draw_new(history, rng, self.handles_settings)
        return history.point(found, self._stop_thresholds()) if begun and found is not None else found
