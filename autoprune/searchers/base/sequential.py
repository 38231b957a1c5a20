"""Searchers that propose one candidate after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base.coordinates import Proposal
from autoprune.searchers.base.history import History
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

    def __init__(self, problem: SearchProblem) -> None:
        self._history = History(problem)

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

    @property
    def parents(self) -> frozenset[int]:
        return frozenset()

    @property
    def remarks(self) -> tuple[str, ...]:
        if self._history.problem.rounds is None:
            return ()
        return ("search.rounds is not used: this searcher does not work in rounds, as netadapt and autocompress do",)

    @property
    def failure(self) -> str | None:
        return None
