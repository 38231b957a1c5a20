"""Evaluates candidates one after another in this process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from autoprune.config.sections import RunSection
from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.evaluation.evaluator import Evaluator
from autoprune.running.course import Course


class _Hung(BaseException):
    """A trial took longer than it may; no code of the user's catches it as an exception of its own."""


def evaluate_inline(course: Course, evaluator: Evaluator, settings: RunSection) -> None:
    """Evaluates until the search ends.

    A trial that takes longer than `trial_timeout` is a failure; that it is not tried again here, and that what hangs
    outside of Python is not ended, only workers do better.
    """
    while (candidate := course.next()) is not None:
        course.take(_evaluated(evaluator, candidate, settings.trial_timeout))


def _evaluated(evaluator: Evaluator, candidate: Candidate, timeout: float | None) -> Trial:
    start = time.perf_counter()
    try:
        with _limited(timeout):
            return evaluator.evaluate(candidate)
    except _Hung:
        failure = Failure("timeout", f"the trial took longer than {timeout:g} s")
        return Trial(candidate, failure, seconds=time.perf_counter() - start)


@contextmanager
def _limited(timeout: float | None) -> Iterator[None]:
    """Raises `_Hung` inside after so many seconds; where there are no signals (a thread) nothing is limited."""
    if timeout is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise _Hung

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
