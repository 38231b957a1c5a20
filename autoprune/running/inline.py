"""Evaluates candidates one after another in this process."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from autoprune.core.trial import Candidate, Trial
from autoprune.evaluation.evaluator import Evaluator


class Executor(Protocol):
    """Evaluates candidates; as many at a time as it has slots."""

    @property
    def slots(self) -> int:
        """How many candidates may be submitted and not collected."""

    def submit(self, candidate: Candidate) -> None:
        """Starts the evaluation of a candidate."""

    def collect(self) -> Trial:
        """Waits for the next trial to finish, in whatever order they do."""


class Inline:
    """One slot; a candidate is evaluated when its trial is collected."""

    slots = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._waiting: deque[Candidate] = deque()

    def submit(self, candidate: Candidate) -> None:
        self._waiting.append(candidate)

    def collect(self) -> Trial:
        return self._evaluator.evaluate(self._waiting.popleft())
