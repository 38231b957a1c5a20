"""The bookkeeping that every searcher shares: what was asked and told, and how far the search has come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import Floats
from autoprune.core.trial import Candidate, Score, Stopped, Trial, value
from autoprune.searchers.base.coordinates import Point, Proposal, Settings, StopThresholds
from autoprune.searchers.base.searcher import SearchProblem

DOUBT = 1.0
"""By how many standard deviations a candidate must be behind at a rung to be dropped there."""
_LEAST = 4
_WHOLE = -1  # the rung of trials that were dropped at none
_NORMAL = 1.4826  # the median of absolute values times this is the standard deviation of a normal distribution

Found = TypeVar("Found", bound=Proposal)


@dataclass(frozen=True)
class Estimate:
    """The value of an allocation under its settings, by one trial.

    Attributes:
        deviation: standard deviation of the value from that on all samples.
    """

    allocation: Allocation
    value: float
    deviation: float = 0.0
    settings: Settings = field(default_factory=dict)


class History:
    """The candidates asked for and the trials told.

    Attributes:
        asked: the candidates, each at the index of its number.
        told: number to trial, in the order in which they came.
        running: number to candidate, of those asked and not told.
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
        self._unread: list[Trial] = []
        self.spent = 0
        self.running: dict[int, Candidate] = {}
        # What a trial adds, so that nothing is gone through again with each of them.
        self._best: tuple[float, int] | None = None
        self._compared: list[Trial] = []
        self._values: list[float] = []
        self._ended: list[int] = []
        self._rises: Floats | None = None
        self._row: dict[int, int] = {}
        self._known_misses: dict[int, list[float]] = {}

    def __contains__(self, proposal: Proposal) -> bool:
        """Returns whether an allocation was proposed before under the same settings."""
        return self.point(proposal) in self._proposed

    def first_new(self, proposals: Iterable[Found]) -> Found | None:
        """Returns the first proposal that is new, or None."""
        return next((each for each in proposals if each not in self), None)

    def point(self, proposal: Proposal, stop_thresholds: StopThresholds = ()) -> Point:
        """Returns the proposal with its settings, by default those that hold where they are not searched."""
        if isinstance(proposal, Point):
            return replace(proposal, stop_thresholds=stop_thresholds) if stop_thresholds else proposal
        return Point(proposal, self._defaults, stop_thresholds)

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

    def progress_of(self, number: int) -> float:
        """Returns the progress of a candidate, or of the next one as things stand."""
        return self.progress[number] if number < self.number else self.elapsed

    def propose(self, proposal: Proposal) -> Candidate:
        """Records a proposal, which must be new, as the next candidate."""
        point = self.point(proposal)
        assert point not in self._proposed, f"{point!r} was proposed before"
        return self.record(self.problem.candidate(self.number, point.allocation, point.stop_thresholds, point.settings))

    def record(self, candidate: Candidate) -> Candidate:
        """Records the next candidate, of any parent, recipe and limits."""
        assert candidate.number == self.number, f"candidate {candidate.number} comes out of turn"
        self.progress.append(self.elapsed)
        self.asked.append(candidate)
        self.running[candidate.number] = candidate
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
        self._unread.append(trial)
        del self.running[trial.number]
        self.spent += trial.work
        if isinstance(trial.outcome, Stopped):
            self._compare(trial, trial.outcome.score, len(trial.outcome.score.rungs))
        elif trial.score is not None:
            self._compare(trial, trial.score, _WHOLE)
            found = (self.value(trial.score), trial.number)
            self._best = found if self._best is None else min(self._best, found)
            if trial.score.rungs:
                rises = np.array([[self._rise(trial, rung) for rung in range(len(trial.score.rungs))]])
                self._row[trial.number] = len(self._row)
                self._known_misses.clear()  # dropped trials and failures add nothing
                self._rises = rises if self._rises is None else np.concatenate((self._rises, rises))

    def _compare(self, trial: Trial, score: Score, ended: int) -> None:
        """Notes the score of a trial and the rung at which it was dropped."""
        self._compared.append(trial)
        self._values.append(self.value(score))
        self._ended.append(ended)

    def unread(self) -> list[Trial]:
        """Returns the trials told since the last call, in the order told."""
        found, self._unread = self._unread, []
        return found

    def best(self) -> Trial | None:
        """Returns the trial of least value, the earliest number among equals; None while there is no score."""
        return None if self._best is None else self.told[self._best[1]]

    def value(self, score: Score) -> float:
        """Returns the value that the search minimises, of a score."""
        return value(score, self.problem.objective)

    def value_of(self, trial: Trial) -> float:
        """Returns the value of a trial that has a score."""
        assert trial.score is not None
        return self.value(trial.score)

    def estimates(self, most: int | None = None) -> list[Estimate]:
        """Returns an estimate from each trial that has not failed, in the order told.

        Those under different settings do not compare as they are.
        Of one that was dropped at a rung it is the value there, plus what the best trial's rose from there to the end.

        Args:
            most: where there are more, those of least value are returned, the least first.
        """
        best = self.best()
        if best is None:
            return []
        misses, last = self._misses(best), max(self._ended)
        # The last rise and the last deviation are those of trials that went to the end.
        rises = np.array([*(self._rise(best, rung) for rung in range(last + 1)), 0.0])
        values, chosen = np.array(self._values) + rises[self._ended], range(len(self._values))
        if most is not None and len(values) > most:
            chosen = values.argsort(kind="stable")[:most].tolist()
        deviations = [misses[rung] if rung < len(misses) else 0.0 for rung in range(last + 1)] + [0.0]
        return [
            Estimate(
                self._compared[i].candidate.allocation,
                float(values[i]),
                deviations[self._ended[i]],
                self._compared[i].candidate.settings,
            )
            for i in chosen
        ]

    def stop_thresholds(self, reference: Trial | None, above: float = 0.0) -> StopThresholds:
        """Returns values at the rungs above which a candidate is expected to end more than `above` over a reference.

        On the same first samples two networks err alike, so what counts is by how much a candidate is behind the
        reference there. How far that is from the final difference is measured on the trials that went to the end:
        `DOUBT` standard deviations (robust: from the median) are allowed. Empty until `_LEAST` such trials are known.
        """
        if reference is None or reference.score is None:
            return ()
        pairs = zip(reference.score.rungs, self._misses(reference), strict=False)
        return tuple(self.value(score) + above + DOUBT * miss for score, miss in pairs)

    def _misses(self, reference: Trial) -> list[float]:
        """Returns, for each rung, the standard deviation of how a trial's lead over a reference changes to the end.

        Robust: from the median. Empty until `_LEAST` other trials went to the end.
        """
        own = self._row.get(reference.number)
        if self._rises is None or reference.score is None or own is None or len(self._rises) <= _LEAST:
            return []
        if own not in self._known_misses:
            # The median of the others, without numpy's handling of other shapes: its own 0 is the lowest, or as low.
            high, low = len(self._rises) // 2, len(self._rises) - len(self._rises) // 2
            apart = np.partition(np.abs(self._rises - self._rises[own]), (low, high), axis=0)
            self._known_misses[own] = (_NORMAL * ((apart[low] + apart[high]) / 2)).tolist()
        return self._known_misses[own]

    def _rise(self, trial: Trial, rung: int) -> float:
        """Returns by how much a trial's value rose from a rung to the end."""
        assert trial.score is not None
        return self.value(trial.score) - self.value(trial.score.rungs[rung]) if trial.score.rungs else 0.0
