"""The work of a run, in jobs that any process can do: the one that was started, or a worker.

A run is a sequence of stages, one after the other: the sweep, the search, the finalists. A stage hands out jobs and
takes their results, in any order; a worker knows neither of them nor of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from autoprune.core.trial import Candidate, Failure, Score, Trial
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import outcome_of, retry_out_of_memory
from autoprune.evaluation.sensitivity.levels import EvaluationResult, Grid, GroupSweep, Levels, SweepSettings


class WorkerContext:
    """The objects that jobs work with: a network with its data, and what is kept from one job to the next.

    Args:
        grid: the levels of the run's sweep.
        retries: how often a job is tried again where memory ran out: it may have been another process that took it.
        worker: what the records call this process.
    """

    def __init__(
        self, evaluator: Evaluator, grid: Grid, sweep: SweepSettings, retries: int = 0, worker: str = "inline"
    ) -> None:
        self.evaluator, self.grid, self.sweep, self.retries, self.worker = evaluator, grid, sweep, retries, worker

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
    """Something to do, with one result or several; it and its results travel as JSON."""

    kind: ClassVar[str]

    def results(self, context: WorkerContext) -> Iterator[R]:
        """Yields the results, each as it is done.

        Raises:
            OSError: data cannot be read, or weights not be written.
        """

    def ends(self, result: R) -> bool:
        """Returns whether no result comes after this one."""

    def to_json(self) -> dict[str, Any]: ...

    def result_to_json(self, result: R) -> dict[str, Any]: ...

    def result_from_json(self, data: Mapping[str, Any]) -> R: ...


class Stage(Protocol[J, R_contra]):
    """A part of a run: asked for jobs until it has none."""

    def next(self) -> J | None:
        """Returns the next job; None while none can be given before a result comes back, or at the end."""

    def take(self, job: J, result: R_contra) -> None:
        """Takes a result."""

    def lost(self, job: J, failure: Failure, seconds: float, worker: str) -> None:
        """Takes a job that failed: it had no (further) result after so many seconds."""


Stages = Generator[Stage[Any, Any], None, T]
"""The stages of a run, each yielded when the one before has ended; the return value is the run's."""


@dataclass(frozen=True)
class Evaluation:
    """A candidate to be evaluated; the result is its trial."""

    kind: ClassVar[str] = "evaluation"
    candidate: Candidate

    def results(self, context: WorkerContext) -> Iterator[Trial]:
        trial = retry_out_of_memory(lambda: context.evaluator.evaluate(self.candidate), context.retries)
        yield replace(trial, worker=context.worker)

    def ends(self, result: Trial) -> bool:
        return True

    def failed(self, failure: Failure, seconds: float, worker: str) -> Trial:
        return Trial(self.candidate, failure, seconds=seconds, worker=worker)

    def to_json(self) -> dict[str, Any]:
        return self.candidate.to_json()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        return cls(Candidate.from_json(data))

    def result_to_json(self, result: Trial) -> dict[str, Any]:
        return result.to_json()

    def result_from_json(self, data: Mapping[str, Any]) -> Trial:
        return Trial.from_json(data, self.candidate)


@dataclass(frozen=True)
class Reevaluation:
    """The network of a trial, evaluated once more on all validation samples."""

    kind: ClassVar[str] = "reevaluation"
    candidate: Candidate

    def results(self, context: WorkerContext) -> Iterator[EvaluationResult]:
        yield retry_out_of_memory(lambda: self._reevaluate(context.evaluator), context.retries)

    def _reevaluate(self, evaluator: Evaluator) -> EvaluationResult:
        outcome = outcome_of(lambda: evaluator.evaluate_network(evaluator.restore_or_build(self.candidate)))
        samples = outcome.samples if isinstance(outcome, Score) else 0
        return EvaluationResult(outcome, samples * evaluator.work.macs(self.candidate.allocation))

    def ends(self, result: EvaluationResult) -> bool:
        return True

    def failed(self, failure: Failure, seconds: float, worker: str) -> EvaluationResult:
        return EvaluationResult(failure)

    def to_json(self) -> dict[str, Any]:
        return self.candidate.to_json()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reevaluation:
        return cls(Candidate.from_json(data))

    def result_to_json(self, result: EvaluationResult) -> dict[str, Any]:
        return result.to_json()

    def result_from_json(self, data: Mapping[str, Any]) -> EvaluationResult:
        return EvaluationResult.from_json(data)


Step = tuple[int, EvaluationResult]
"""A width and what became of that level."""


@dataclass(frozen=True)
class SweepJob:
    """Levels of one group of the sweep, to be evaluated one after the other."""

    kind: ClassVar[str] = "levels"
    group_sweep: GroupSweep

    def results(self, context: WorkerContext) -> Iterator[Step]:
        yield from context.levels.evaluate_group(self.group_sweep, context.retries)

    def ends(self, result: Step) -> bool:
        width, level = result
        return self.group_sweep.ends(width, level.outcome)

    def to_json(self) -> dict[str, Any]:
        return {
            "group": self.group_sweep.group,
            "widths": list(self.group_sweep.widths),
            "floor": self.group_sweep.floor,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SweepJob:
        return cls(GroupSweep(data["group"], tuple(data["widths"]), data["floor"]))

    def result_to_json(self, result: Step) -> dict[str, Any]:
        width, level = result
        return {"width": width, **level.to_json()}

    def result_from_json(self, data: Mapping[str, Any]) -> Step:
        return data["width"], EvaluationResult.from_json(data)


JOBS: Mapping[str, type[Evaluation] | type[Reevaluation] | type[SweepJob]] = {
    kind.kind: kind for kind in (Evaluation, Reevaluation, SweepJob)
}


def job_from_json(data: Mapping[str, Any]) -> Job[Any]:
    """Returns the job in what `job_to_json` makes."""
    return JOBS[data["kind"]].from_json(data["job"])


def job_to_json(job: Job[Any]) -> dict[str, Any]:
    return {"kind": job.kind, "job": job.to_json()}


class CandidateJob(Job[R], Protocol[R]):
    """A job on a candidate, with one result."""

    @property
    def candidate(self) -> Candidate: ...

    def failed(self, failure: Failure, seconds: float, worker: str) -> R:
        """Returns the result of a job that was lost."""


class JobList(Generic[R]):
    """A stage whose jobs are known beforehand, and made when it is asked for them.

    Args:
        take: is given each candidate with its result.
    """

    def __init__(self, jobs: Iterable[CandidateJob[R]], take: Callable[[Candidate, R], None]) -> None:
        self._jobs, self._take = iter(jobs), take

    def next(self) -> CandidateJob[R] | None:
        return next(self._jobs, None)

    def take(self, job: CandidateJob[R], result: R) -> None:
        self._take(job.candidate, result)

    def lost(self, job: CandidateJob[R], failure: Failure, seconds: float, worker: str) -> None:
        self._take(job.candidate, job.failed(failure, seconds, worker))
