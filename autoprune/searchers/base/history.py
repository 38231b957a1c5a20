"""What a searcher asked and was told, and how far it has come: the bookkeeping that every searcher shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Score, Stopped, Trial, value
from autoprune.searchers.base.coordinates import Point, Proposal, Settings
from autoprune.searchers.base.searcher import SearchProblem

DOUBT = 1.0
"""By how many standard deviations a candidate must be behind at a rung to be dropped there."""
_LEAST = 4
_NORMAL = 1.4826  # the median of absolute values times this is the standard deviation of a normal distribution

StopThresholds = tuple[float | None, ...]
Found = TypeVar("Found", bound=Proposal)


@dataclass(frozen=True)
class Estimate:
    """What a trial says of the value of its allocation under its settings.

    Attributes:
        deviation: standard deviation of the value from that on all samples.
    """

    allocation: Allocation
    value: float
    deviation: float = 0.0
    settings: Settings = field(default_factory=dict)


class History:
    """What a searcher asked and was told.

    Attributes:
        asked: the candidates, each at the index of its number.
        told: number to trial, in the order in which they came.
        spent: multiply-adds that the trials told have taken.
        progress: of each candidate, in [0, 1]: how much of the trials or of the work was used when it was asked for.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem
        self.asked: list[Candidate] = []
        self.told: dict[int, Trial] = {}
        self.progress: list[float] = []
        self._proposed: set[Point] = set()
        self._defaults = problem.default_settings
        self.spent = 0

    def __contains__(self, proposal: Proposal) -> bool:
        """Whether it was proposed before, under the same settings."""
        return self._point(proposal) in self._proposed

    def first_new(self, proposals: Iterable[Found]) -> Found | None:
        """The first of some that was not proposed before, or None."""
        return next((each for each in proposals if each not in self), None)

    def _point(self, proposal: Proposal) -> Point:
        return proposal if isinstance(proposal, Point) else Point(proposal, self._defaults)

    @property
    def number(self) -> int:
        """The number of the next candidate."""
        return len(self.asked)

    @property
    def full(self) -> bool:
        """Whether as many candidates were asked for as the problem allows."""
        trials, work = self.problem.trials, self.problem.work
        if trials is not None and self.number >= trials:
            return True
        return work is not None and self._committed + self.problem.price > work

    @property
    def _committed(self) -> int:
        """Multiply-adds spent, and those that what still runs may take."""
        return self.spent + (self.number - len(self.told)) * self.problem.price

    @property
    def elapsed(self) -> float:
        """How much of the trials or of the work is used, whichever is more; in [0, 1]."""
        trials, work = self.problem.trials, self.problem.work
        parts = [self.number / trials] if trials else []
        parts += [self._committed / work] if work else []
        return min(1.0, max(parts, default=1.0))

    def propose(self, proposal: Proposal, stop_thresholds: StopThresholds = ()) -> Candidate:
        """The next candidate, recorded. `proposal` must be new."""
        point = self._point(proposal)
        assert point not in self._proposed, f"{point!r} was proposed before"
        return self.record(self.problem.candidate(self.number, point.allocation, stop_thresholds, point.settings))

    def record(self, candidate: Candidate) -> Candidate:
        """The next candidate itself, of whatever parent, recipe and limits, recorded."""
        assert candidate.number == self.number, f"candidate {candidate.number} comes out of turn"
        self.progress.append(self.elapsed)
        self.asked.append(candidate)
        self._proposed.add(Point(candidate.allocation, candidate.settings))
        return candidate

    def tell(self, trial: Trial) -> None:
        """Records the outcome of a candidate.

        Raises:
            ValueError: it was never asked for, or was told before.
        """
        if not 0 <= trial.number < self.number or self.asked[trial.number].key != trial.candidate.key:
            raise ValueError(f"trial {trial.number} is none of the {self.number} candidates that were asked for")
        if trial.number in self.told:
            raise ValueError(f"trial {trial.number} was told before; tell each trial once")
        self.told[trial.number] = trial
        self.spent += trial.work

    def best(self) -> Trial | None:
        """The trial of least value, the earliest number among equals; None while there is no score."""
        scored = [(self.value(trial.score), trial.number) for trial in self.told.values() if trial.score]
        return self.told[min(scored)[1]] if scored else None

    def value(self, score: Score) -> float:
        """What the search minimises, of a score."""
        return value(score, self.problem.objective)

    def estimates(self) -> list[Estimate]:
        """What each trial says of the value of its allocation, in the order told; failures say nothing.

        Those under different settings do not compare as they are.
        Of one that was dropped at a rung it is the value there, plus what the best trial's rose from there to the end.
        """
        best, found = self.best(), []
        misses = self._misses(best) if best else []
        for trial in self.told.values():
            allocation, settings = trial.candidate.allocation, trial.candidate.settings
            if trial.score is not None:
                found.append(Estimate(allocation, self.value(trial.score), settings=settings))
            elif isinstance(trial.outcome, Stopped) and best is not None:
                rung = len(trial.outcome.score.rungs)
                value = self.value(trial.outcome.score) + self._rise(best, rung)
                found.append(Estimate(allocation, value, misses[rung] if rung < len(misses) else 0.0, settings))
        return found

    def stop_thresholds(self, reference: Trial | None, above: float = 0.0) -> StopThresholds:
        """Values at the rungs from which a candidate is not expected to end at most `above` over a reference.

        On the same first samples two networks err alike, so what counts is by how much a candidate is behind the
        reference there. How far that is from the final difference is measured on the trials that went to the end:
        `DOUBT` standard deviations (robust: from the median) are allowed. Empty until `_LEAST` such trials are known.
        """
        if reference is None or reference.score is None:
            return ()
        pairs = zip(reference.score.rungs, self._misses(reference), strict=False)
        return tuple(self.value(score) + above + DOUBT * miss for score, miss in pairs)

    def _misses(self, reference: Trial) -> list[float]:
        """By how much, at each rung, what a trial is ahead of a reference differs from the end; standard deviations.

        Robust: from the median. Empty until `_LEAST` other trials went to the end.
        """
        others = [t for t in self.told.values() if t.score and t.score.rungs and t.number != reference.number]
        if len(others) < _LEAST or reference.score is None:
            return []
        return [
            _NORMAL * float(np.median([abs(self._rise(other, rung) - self._rise(reference, rung)) for other in others]))
            for rung in range(len(reference.score.rungs))
        ]

    def _rise(self, trial: Trial, rung: int) -> float:
        """By how much a trial's value rose from a rung to the end."""
        assert trial.score is not None
        return self.value(trial.score) - self.value(trial.score.rungs[rung]) if trial.score.rungs else 0.0


def ask_repeatedly(
    history: History,
    limit: int,
    find: Callable[[], Proposal | None],
    stop_thresholds: Callable[[], StopThresholds] = tuple,
) -> list[Candidate]:
    """At most `limit` candidates, one by one, so that `ask(n)` is n times `ask(1)`.

    Args:
        find: something new, or None if there is nothing now.
        stop_thresholds: those of the candidate that `find` has just found.
    """
    asked: list[Candidate] = []
    while len(asked) < limit and not history.full and (found := find()) is not None:
        asked.append(history.propose(found, stop_thresholds()))
    return asked


class BaseSearcher(ABC):
    """A searcher with a history, whose candidates all start from the dense network."""

    uses_curves: ClassVar[bool]
    handles_settings: ClassVar[bool]

    def __init__(self, problem: SearchProblem) -> None:
        self._history = History(problem)

    @abstractmethod
    def ask(self, limit: int) -> Sequence[Candidate]:
        """At most `limit` new candidates."""

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


class SequentialSearcher(BaseSearcher):
    """A searcher that proposes one candidate after the other, never the same twice."""

    def ask(self, limit: int) -> Sequence[Candidate]:
        return ask_repeatedly(self._history, limit, self._next, self._stop_thresholds)

    @abstractmethod
    def _next(self) -> Proposal | None:
        """A new allocation, or one with settings, or None if there is none now."""

    def _stop_thresholds(self) -> StopThresholds:
        """Those of the candidate that was just found."""
        return ()


class FixedListSearcher(SequentialSearcher):
    """Proposes a list of allocations in turn, each once, and ends."""

    def __init__(self, problem: SearchProblem, allocations: Sequence[Allocation]) -> None:
        super().__init__(problem)
        self._allocations = tuple(dict.fromkeys(allocations))

    def _next(self) -> Allocation | None:
        return self._history.first_new(self._allocations)
