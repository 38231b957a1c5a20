"""Does a run's jobs one after another in this process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TypeVar, cast

from autoprune.core.trial import Failure
from autoprune.running.execution.jobs import Job, Stage, Stages, WorkerContext

R = TypeVar("R")
T = TypeVar("T")


class _TimedOut(KeyboardInterrupt):
    """A trial took longer than it may; no code of the user's catches it as an exception of its own."""


def run_inline(stages: Stages[T], context: WorkerContext, timeout: float | None = None) -> T:
    """Does every job of every stage, and returns what the stages return.

    Args:
        stages: of the run.
        context: what jobs work with.
        timeout: seconds that a job may take for a result; one that takes longer is lost. It is not tried again, and
            what hangs outside of Python is not ended, which only workers do. None is no limit.
    """
    with closing(stages):
        while True:
            try:
                stage = next(stages)
            except StopIteration as end:
                return cast(T, end.value)
            while (job := stage.next()) is not None:
                _do(stage, job, context, timeout)


def _do(stage: Stage[Job[R], R], job: Job[R], context: WorkerContext, timeout: float | None) -> None:
    results = job.results(context)
    while True:
        start = time.perf_counter()
        try:
            with _limited(timeout):
                result = next(results, None)
        except _TimedOut:
            context.forget()
            failure = Failure("timeout", f"the trial took longer than {timeout:g} s")
            stage.lost(job, failure, time.perf_counter() - start, context.worker)
            return
        if result is None:
            return
        stage.take(job, result)


@contextmanager
def _limited(timeout: float | None) -> Iterator[None]:
    """Raises `_TimedOut` inside after so many seconds; where there are no signals (a thread) nothing is limited."""
    if timeout is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _TimedOut

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
