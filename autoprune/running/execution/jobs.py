"""The work of a run, in jobs that any process can do: the one that was started, or a worker.

A run is a sequence of stages, one after the other: the sweep, the search, the finalists. A stage hands out jobs and
takes their results, in any order; a worker knows neither of them nor of the ledger.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from autoprune.core.trial import Candidate, Failure, Score, Trial
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import EvaluationResult, outcome_of, retry_out_of_memory
from autoprune.evaluation.sensitivity.sweep import Grid, GroupSweep, Levels, SweepSettings


@dataclass
class WorkerContext:
    """The objects that jobs work with: a network with its data, and what is kept from one job to the next.

    Attributes:
        grid: the levels of the run's sweep.
        retries: how often a job is tried again where memory ran out: it may have been another process that took it.
        worker: what the records call this process.
    """

    evaluator: Evaluator
    grid: Grid
    sweep: SweepSettings
    retries: int = 0
    worker: str = "inline"

    @cached_property
    def levels(self) -> Levels:
        """The sweep's levels, with as much of the network as they have in common."""
        return Levels(self.evaluator, self.grid, self.sweep)

    def forget(self) -> None:
        """Drops what a job that was interrupted may have left half done."""
        self.__dict__.pop("levels", None)


J = TypeVar("J")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)
T = TypeVar("T")


class Job(Protocol[R]):
    """Something to do, with one result or several; it and its results are pickled on their way to and from a worker."""

    def results(self, context: WorkerContext) -> Iterator[R]:
        """Yields the results, each as it is done.

        Raises:
            OSError: data cannot be read, or weights not be written.
        """

    def ends(self, result: R) -> bool:
        """Returns whether no result comes after this one."""


class Stage(Protocol[J, R_contra]):
    """A part of a run: asked for jobs until it has none."""

    def next(self) -> J | None:
        """Returns the next job; None while none can be given before a result comes back, or at the end."""

    def take(self, job: J, result: R_contra) -> None:
        """Takes a result."""

    def lost(self, job: J, failure: Failure, seconds: float, worker: str) -> None:
        """Takes a job that failed.

        Args:
            job: as it was handed out.
            failure: why it has no (further) result.
            seconds: since it was handed out.
            worker: who had it, as records name it.
        """


Stages = Generator[Stage[Any, Any], None, T]
"""The stages of a run, each yielded when the one before has ended; the return value is the run's."""


@dataclass(frozen=True)
class CandidateJob(ABC, Generic[R]):
    """A job on a candidate, with one result."""

    candidate: Candidate

    @abstractmethod
    def results(self, context: WorkerContext) -> Iterator[R]:
        """Yields the result.

        Raises:
            OSError: data cannot be read, or weights not be written.
        """

    def ends(self, result: R) -> bool:
        """Returns True: there is one result."""
        return True

    @abstractmethod
    def failed(self, failure: Failure, seconds: float, worker: str) -> R:
        """Returns the result of a job that was lost.

        Args:
            failure: why.
            seconds: since it was handed out.
            worker: who had it, as records name it.
        """


class Evaluation(CandidateJob[Trial]):
    """A candidate to be evaluated; the result is its trial."""

    def results(self, context: WorkerContext) -> Iterator[Trial]:
        """Yields the trial."""
        trial = retry_out_of_memory(lambda: context.evaluator.evaluate(self.candidate), context.retries)
        yield replace(trial, worker=context.worker)

    def failed(self, failure: Failure, seconds: float, worker: str) -> Trial:
        """Returns a trial without a score.

        Args:
            failure: why.
            seconds: since it was handed out.
            worker: who had it, as records name it.
        """
        return Trial(self.candidate, failure, seconds=seconds, worker=worker)


class Reevaluation(CandidateJob[EvaluationResult]):
    """The network of a trial, evaluated once more on all validation samples."""

    def results(self, context: WorkerContext) -> Iterator[EvaluationResult]:
        """Yields the outcome with what it cost."""
        yield retry_out_of_memory(lambda: self._reevaluate(context.evaluator), context.retries)

    def _reevaluate(self, evaluator: Evaluator) -> EvaluationResult:
        outcome = outcome_of(lambda: evaluator.evaluate_network(evaluator.restore_or_build(self.candidate)))
        samples = outcome.samples if isinstance(outcome, Score) else 0
        return EvaluationResult(outcome, samples * evaluator.work.macs(self.candidate.allocation))

    def failed(self, failure: Failure, seconds: float, worker: str) -> EvaluationResult:
        """Returns the failure; what the job has cost is not known.

        Args:
            failure: why.
            seconds: since it was handed out; they are not recorded.
            worker: who had it; that is not recorded.
        """
        return EvaluationResult(failure)


Step = tuple[int, EvaluationResult]
"""A width and what became of that level."""


@dataclass(frozen=True)
class SweepJob:
    """Levels of one group of the sweep, to be evaluated one after the other."""

    group_sweep: GroupSweep

    def results(self, context: WorkerContext) -> Iterator[Step]:
        """Yields each level that is evaluated, the widest first."""
        yield from context.levels.evaluate_group(self.group_sweep, context.retries)

    def ends(self, result: Step) -> bool:
        """Returns whether the level is the narrowest, or so bad that narrower ones are left out."""
        width, level = result
        return self.group_sweep.ends(width, level.outcome)


class JobList(Generic[R]):
    """A stage whose jobs are known beforehand, and made when it is asked for them.

    Args:
        take: is given each candidate with its result.
    """

    def __init__(self, jobs: Iterable[CandidateJob[R]], take: Callable[[Candidate, R], None]) -> None:
        self._jobs, self._take = iter(jobs), take

    def next(self) -> CandidateJob[R] | None:
        """Returns the next job; None at the end."""
        return next(self._jobs, None)

    def take(self, job: CandidateJob[R], result: R) -> None:
        """Passes a result on."""
        self._take(job.candidate, result)

    def lost(self, job: CandidateJob[R], failure: Failure, seconds: float, worker: str) -> None:
        """Passes on what stands for the result of a job that was lost, as `Stage.lost` has it.

        Args:
            job: as it was handed out.
            failure: why it has no result.
            seconds: since it was handed out.
            worker: who had it, as records name it.
        """
        self._take(job.candidate, job.failed(failure, seconds, worker))
