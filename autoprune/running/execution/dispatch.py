"""Hands out a run's jobs to workers that ask for them, and takes their results, whatever library carries both."""

from __future__ import annotations

import time
from typing import Any, Generic, TypeVar

from autoprune.config.sections import RunSection
from autoprune.core.trial import Failure
from autoprune.running.execution.jobs import Job, JobList, Stage, Stages, WorkerContext

T = TypeVar("T")

LOST_WORKER = "workers"
"""What records give as the worker of a job that was lost."""


class Dispatch(Generic[T]):
    """A run's jobs, stage by stage; a stage begins when nothing of the one before is left.

    Exceptions do not pass through the library that carries the jobs, so they are kept.

    Attributes:
        fault: the exception that ended the run early.
        value: what the stages returned; None until they are over.
    """

    def __init__(self, stages: Stages[T], settings: RunSection) -> None:
        self._run_stages, self._settings = stages, settings
        self._stage: Stage[Any, Any] = JobList[Any]((), lambda *_: None)  # nothing comes before the first
        self._assigned: dict[str, tuple[Stage[Any, Any], Job[Any], float]] = {}  # with when it was handed out
        self.fault: Exception | None = None
        self.value: T | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether there is nothing more to do, and nothing is being done."""
        return not self._assigned and (self._over or self.fault is not None)

    def next(self, key: str) -> Job[Any] | None:
        """Returns a job; None while there is none to be had, or once all is over.

        Args:
            key: under which its results will come.
        """
        if self.fault is not None or len(self._assigned) >= self._settings.workers:
            return None
        try:
            job = self._next()
        except Exception as fault:
            self.fault = fault
            return None
        if job is not None:
            self._assigned[key] = (self._stage, job, time.monotonic())
        return job

    def _next(self) -> Job[Any] | None:
        while not self._over:
            job: Job[Any] | None = self._stage.next()
            if job is not None or self._assigned:
                return job
            try:
                self._stage = next(self._run_stages)
            except StopIteration as end:
                self.value, self._over = end.value, True
        return None

    def take(self, key: str, result: object) -> None:
        """Takes one of a job's results, as `RunningJob.step` gives it; an exception ends the run."""
        stage, job, _ = self._assigned[key]
        if isinstance(result, Exception):
            self.fault = self.fault or result
            return
        try:
            stage.take(job, result)
        except Exception as fault:
            self.fault = self.fault or fault

    def end(self, key: str, lost: bool) -> None:
        """Ends a job: it was done, or lost, as its worker died each time."""
        stage, job, since = self._assigned.pop(key)
        if not lost or self.fault is not None:
            return
        seconds = time.monotonic() - since
        try:
            stage.lost(job, _why(seconds, self._settings), seconds, LOST_WORKER)
        except Exception as fault:
            self.fault = fault


def _why(seconds: float, settings: RunSection) -> Failure:
    """Returns why a job was lost: its workers died, every time."""
    tries = settings.retries + 1
    often = "" if tries == 1 else f" {tries} times"
    if settings.trial_timeout is not None and seconds >= tries * settings.trial_timeout:
        return Failure("timeout", f"the trial took longer than {settings.trial_timeout:g} s{often}")
    return Failure("worker_died", f"its worker died{often}; out of memory, or ended by the network's own code?")


class RunningJob:
    """A job that this worker does."""

    def __init__(self, context: WorkerContext, job: Job[Any]) -> None:
        self._job, self._results = job, job.results(context)

    def step(self) -> tuple[object, bool]:
        """Returns the next result, for `Dispatch.take`, and whether it is the last.

        Data that cannot be read or weights that cannot be written are a result too, an `OSError`.
        """
        try:
            result = next(self._results)
        except OSError as fault:  # of whatever class, which might not be found where it is unpickled
            return OSError(fault.errno, fault.strerror, fault.filename), True
        return result, self._job.ends(result)
