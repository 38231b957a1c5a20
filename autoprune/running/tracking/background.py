"""Mirrors a run beside it, in a thread: a mirror that is slow, full or down neither stops nor slows the run.

What could not be mirrored is tried again after a pause, from the trials told since the start; what is still missing
when the run ends and waiting for it has lasted long enough, `autoprune track` mirrors from the ledger.
"""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable

from autoprune.core.trial import Trial
from autoprune.reporting.record import best_of
from autoprune.running.tracking.tracker import Mirror, RunDescription, RunOutcome

log = logging.getLogger(__name__)

PAUSE = 30.0
"""Seconds between two tries of a mirror that fails."""
PATIENCE = 30.0
"""Seconds without progress that the end of a run waits for its mirror."""
MOST_PATIENCE = 120.0
"""Seconds that the end of a run waits at most."""
INTERRUPT_PATIENCE = 3.0
"""Seconds that an interrupted run waits."""


class BackgroundTracker:
    """A tracker that hands everything to a thread.

    Args:
        patience: seconds without progress that `finish` waits.
        pause: seconds between two tries.
    """

    def __init__(self, mirror: Mirror, patience: float = PATIENCE, pause: float = PAUSE) -> None:
        self._mirror, self._patience, self._pause = mirror, patience, pause
        self._changed = threading.Condition()
        self._trials: list[tuple[Trial, float]] = []
        self._numbers: set[int] = set()
        self._last: Callable[[], None] | None = None
        self._run: RunDescription | None = None
        self._steps = 0  # that the thread has done; whoever waits sees progress by it
        self._over = self._complete = False
        self._warned = False

    def start(self, run: RunDescription) -> None:
        self._run = run
        threading.Thread(target=self._work, args=(run,), name="mirror", daemon=True).start()

    def told(self, trial: Trial) -> None:
        if self._run is None or trial.number in self._numbers:
            return
        when = self._run.told_at.get(trial.number, time.time())
        with self._changed:
            self._numbers.add(trial.number)
            self._trials.append((trial, when))
            self._changed.notify_all()

    def finish(self, outcome: RunOutcome) -> None:
        if self._run is not None:
            self._end(lambda: self._mirror.finish(outcome), self._patience, MOST_PATIENCE)

    def interrupt(self) -> None:
        if self._run is not None and not self._over:
            self._end(self._mirror.interrupt, INTERRUPT_PATIENCE, INTERRUPT_PATIENCE)

    def _end(self, last: Callable[[], None], patience: float, most: float) -> None:
        """Has the thread do one last thing, and waits for it as long as it makes progress."""
        deadline = time.monotonic() + most
        with self._changed:
            self._last = last
            self._changed.notify_all()
            while not self._over:
                done = self._steps
                self._changed.wait(max(0.0, min(patience, deadline - time.monotonic())))
                if self._steps == done or time.monotonic() >= deadline:
                    break
            self._over = True
        if not self._complete:
            assert self._run is not None  # there is no end without a start
            command = shlex.join(["autoprune", "track", str(self._run.folder)])
            log.warning("MLflow's mirror of the run is not complete, the ledger is; this completes it: %s", command)

    def _work(self, run: RunDescription) -> None:
        """The thread: follows the run to its end, and tries again after what goes wrong, once more at the end."""
        while not self._over:
            ending = self._last is not None
            try:
                self._follow(run)
            except Exception as fault:  # a mirror lets through the exceptions of every store and transport
                self._warn(fault)
                self._wait_to_try_again(ending)

    def _follow(self, run: RunDescription) -> None:
        """Mirrors what is told, in order, until the last thing is done or nobody waits for it any more."""
        known = self._mirror.open(run)
        self._advance()
        copied, best = 0, None
        while not self._over:
            batch, last = self._wait_for_more(copied)
            for trial, when in batch:
                if self._over:
                    return
                copied += 1
                best = best_of(best, trial, run.objective)
                if trial.number not in known:
                    self._mirror.told(trial, when, copied, best)
                    self._advance()
            if not batch and last is not None:
                last()
                with self._changed:
                    self._complete = self._over = True
                    self._changed.notify_all()

    def _wait_to_try_again(self, tried_at_the_end: bool) -> None:
        with self._changed:
            if tried_at_the_end:
                self._over = True
                self._changed.notify_all()
            else:
                self._changed.wait_for(lambda: self._over or self._last is not None, self._pause)

    def _wait_for_more(self, copied: int) -> tuple[list[tuple[Trial, float]], Callable[[], None] | None]:
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._last is not None or len(self._trials) > copied)
            return self._trials[copied:], self._last

    def _advance(self) -> None:
        with self._changed:
            self._steps += 1
            self._changed.notify_all()

    def _warn(self, fault: Exception) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "MLflow cannot be written (%s: %s); the run goes on, and it is tried again", type(fault).__name__, fault
            )
