"""Mirrors a run beside it, in a thread: a store that is slow, full or down neither stops nor slows the run.

What could not be written is tried again after a pause; what is still missing when the run has ended and waiting for it
has lasted long enough, `autoprune track` writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from autoprune.running.tracking.mlflow_runs import track_command

if TYPE_CHECKING:
    from torch import nn

    from autoprune.config import Experiment
    from autoprune.running.tracking.sync import Sync

log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between two looks at the records."""
PAUSE = 30.0
"""Seconds between two tries of a store that fails."""
PATIENCE = 30.0
"""Seconds without progress that the end of a run waits for the store."""
MOST_PATIENCE = 900.0
"""Seconds that the end of a run waits at most."""
INTERRUPT_PATIENCE = 3.0
"""Seconds that an interrupted run waits."""
_GLANCE = 0.1
"""Seconds between two looks at the mirror's progress."""
_SILENCE = 10.0
"""Seconds after which it is said what the end of a run waits for."""


@dataclass(frozen=True)
class Tracking:
    """Where runs are mirrored.

    Attributes:
        uri: the store or server; None leaves it to MLflow.
        experiment: name of MLflow's experiment.
    """

    uri: str | None
    experiment: str


def tracking_of(experiment: Experiment) -> Tracking | None:
    """Returns where an experiment is to be mirrored, or None if nowhere.

    Raises:
        UserError: the tracking URI's credentials have to be given again.
    """
    track = experiment.track
    return Tracking(experiment.tracking_uri(), track.experiment) if track.enabled else None


def active_run() -> str | None:
    """Returns the id of the MLflow run that is active in this thread, or None; MLflow is not imported for it."""
    mlflow = sys.modules.get("mlflow")
    run = mlflow.active_run() if mlflow else None
    return str(run.info.run_id) if run else None


def chosen_in_mlflow() -> dict[str, str]:
    """Returns the settings of the store and of the experiment that this program has chosen by MLflow's own functions.

    The experiment is that of the active run, else the one that was set; MLflow is not imported for it.
    """
    mlflow = sys.modules.get("mlflow")
    if mlflow is None:
        return {}
    chosen = {"track.uri": str(mlflow.get_tracking_uri())} if mlflow.is_tracking_uri_set() else {}
    run = mlflow.active_run()
    number = run.info.experiment_id if run else os.environ.get("MLFLOW_EXPERIMENT_ID")
    if number:
        with contextlib.suppress(Exception):  # of the store; whoever mirrors the run meets it again, and says it
            chosen["track.experiment"] = str(mlflow.get_experiment(number).name)
    return chosen


@contextlib.contextmanager
def mirroring(folder: Path, tracking: Tracking | None, dense: nn.Module | None = None) -> Iterator[None]:
    """Mirrors a run's folder while the body runs, and waits for a while until all is there.

    Args:
        tracking: None mirrors nothing.
        dense: the run's dense network, for where its folder does not say how to build it.
    """
    if tracking is None:
        yield
        return

    def open_sync() -> Sync:
        from autoprune.running.tracking.sync import Sync  # and MLflow with it, in the thread

        return Sync(folder, tracking.uri, tracking.experiment, dense)

    with Tracker(folder, open_sync, tracking.uri):
        yield


class Tracker:
    """A thread that follows the records of a run.

    Args:
        open_sync: called once at the beginning and anew after each failure.
        uri: the store, whose credentials are kept out of messages.
    """

    def __init__(self, folder: Path, open_sync: Callable[[], Sync], uri: str | None = None) -> None:
        self._folder, self._open_sync, self._uri = folder, open_sync, uri
        self._ending, self._over = threading.Event(), threading.Event()
        self._advanced = time.monotonic()  # when the thread made its last step
        self._complete = self._warned = False

    def __enter__(self) -> Tracker:
        threading.Thread(target=self._work, name="mirror", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: object, trace: TracebackType | None) -> None:
        if kind is None:
            with contextlib.suppress(KeyboardInterrupt):  # the run is whole; its user does not want to wait
                self._end(PATIENCE, MOST_PATIENCE)
        else:
            self._end(INTERRUPT_PATIENCE, INTERRUPT_PATIENCE)
        self._over.set()
        if not self._complete:
            command = track_command(self._folder)
            log.warning("MLflow's mirror of the run is not complete, the ledger is; this completes it: %s", command)

    def _end(self, patience: float, most: float) -> None:
        """Has the thread write the end, and waits for it as long as it makes progress."""
        begun, said = time.monotonic(), False
        self._ending.set()
        while not self._over.wait(_GLANCE):
            now = time.monotonic()
            if now - max(begun, self._advanced) >= patience or now - begun >= most:
                return
            if now - begun >= _SILENCE and not said:
                said = True
                log.warning(
                    "the run is whole, MLflow's mirror of it is still being written; Ctrl-C leaves the rest to: %s",
                    track_command(self._folder),
                )

    def _work(self) -> None:
        """Follows the run to its end, and tries again after what goes wrong, once more at the end."""
        while not self._over.is_set():
            ending = self._ending.is_set()
            try:
                self._follow()
            except Exception as fault:  # MLflow lets through the exceptions of every store and transport
                self._warn(fault)
                if ending:
                    self._over.set()
                else:
                    self._ending.wait(PAUSE)

    def _follow(self) -> None:
        """Writes what the records grow by until the run has ended, or until nobody waits for it any more."""
        sync = self._open_sync()
        while not self._over.is_set():
            ending = self._ending.is_set()  # before the records are read: what is read after the end is all there is
            for _ in sync.update(ending):
                self._advanced = time.monotonic()
                if self._over.is_set():
                    return
            if ending:
                self._complete = True
                self._over.set()
            else:
                self._ending.wait(POLL)

    def _warn(self, fault: Exception) -> None:
        from autoprune.running.tracking.mlflow_client import describe_fault

        if not self._warned:
            self._warned = True
            reason = describe_fault(fault, self._uri)
            log.warning("MLflow cannot be written (%s); the run goes on, and it is tried again", reason)
