"""Brings MLflow up to the records of a run, beside it and afterwards, and finds the folder of a run in MLflow."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune import registry
from autoprune.config import load_experiment
from autoprune.config.credentials import redact
from autoprune.core.ledger import NAME
from autoprune.errors import AutopruneError, CheckpointError, UserError
from autoprune.running.run_folder import RunFolder
from autoprune.running.tracking.mlflow_client import Store, describe_fault, local_path, resolve_uri, tags_of
from autoprune.running.tracking.mlflow_runs import (
    SEARCH_ROLE,
    Point,
    RunEnd,
    reader_of,
    run_key,
    track_command,
)

if TYPE_CHECKING:
    from torch import nn

    from autoprune.graph.inputs import ModelInputs

log = logging.getLogger(__name__)

_FOLDER = "autoprune.folder"
_READ = "autoprune.read"
"""Tag of a run: how many bytes of the records its curves show."""
_POINTS = 20
"""Points of curves that are written at once: few enough that MLflow does it in one transaction, with `_READ`."""


class Sync:
    """One folder's records on their way to one store.

    Whatever is interrupted may be begun anew, in another process or on another machine: a new `Sync` finds in the store
    what is there. Trials are known by their numbers, points of curves by the offset up to which records were read,
    which is written in the same transaction.

    Args:
        uri: the store or server; None leaves it to MLflow.
        experiment: name of MLflow's experiment.
        dense: the dense network, where the run's folder does not say how to build it.

    Attributes:
        trials: how many the records tell so far.
        added: how many of them the store did not have, in the beginning.
        state: of the run, once it is closed in the store.

    Raises:
        RunFolderError: the folder is no run, or its records are damaged.
        UserError: the experiment was deleted, or a database driver is missing.
        Exception: whatever stores and transports raise, as `update` does; begin anew with another `Sync`.
    """

    def __init__(self, folder: Path, uri: str | None, experiment: str, dense: nn.Module | None = None) -> None:
        self._folder, self._uri, self._dense = folder, uri, dense
        self._reader = reader_of(folder)
        self._store = Store(uri, experiment)
        self._offset = self._shown = self.trials = self.added = 0
        self._there: set[int] = set()
        self._run = self._open_run()
        self.state = "going on"

    def update(self, over: bool = False) -> Iterator[None]:
        """Writes what the records have grown by, and yields after each step.

        Args:
            over: whether nothing will be added to the records; the run in the store is then closed.

        Raises:
            Exception: whatever stores and transports raise; begin anew with another `Sync`.
        """
        points: list[Point] = []
        for record in self._new_records():
            trial, point = self._reader.take(record)
            if trial is not None:
                self.trials += 1
                if trial.number not in self._there:
                    child = self._store.create(trial, self._run)
                    self._store.close(child, trial.status, trial.end)
                    self.added += 1
                    yield
            if point is not None and self._offset > self._shown:
                points.append(point)
            if len(points) == _POINTS:
                self._write_points(points)
                yield
        if points or over:
            self._write_points(points)
        if over:
            yield
            self._close(self._reader.conclude())

    def _open_run(self) -> str:
        """Finds the run that stands for the folder, and what it shows already, or makes it; returns its id."""
        content, store = self._reader.describe(), self._store
        place = {_FOLDER: str(self._folder.resolve())}
        run, tags = store.find(content.key, content.role) or ("", {})
        if run and _FOLDER not in tags:  # half written at a crash
            store.delete(run)
        if _FOLDER not in tags:
            run = store.create(content)
            store.write(run, tags=place)  # last: a run with this tag is whole
            return run
        self._shown = int(tags.get(_READ, 0))
        store.reopen(run, place)
        self._there = store.children(run)
        return run

    def _new_records(self) -> Iterator[Mapping[str, Any]]:
        """Yields the whole records from the offset on, which moves to the end of each."""
        with open(self._reader.path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._offset += len(line)
                yield json.loads(line)

    def _write_points(self, points: list[Point]) -> None:
        self._store.write(self._run, points, tags={_READ: str(self._offset)})
        points.clear()

    def _close(self, end: RunEnd) -> None:
        if end.metrics:
            known = self._store.metrics_of(self._run)  # of a run that had finished and was resumed
            changed = {name: value for name, value in end.metrics.items() if known.get(name) != value}
            tags = {} if end.best is None else {"autoprune.best_trial": str(end.best)}
            self._store.write(self._run, [Point(0, end.end, changed)], tags=tags)
        for path in end.files:
            self._store.write_file(self._run, path, "weights" if path.suffix == ".pt" else None)
        self._store.close(self._run, end.status, end.end)
        self.state = "finished" if end.status == "FINISHED" else "interrupted"
        if end.wants_model and end.best is not None:
            self._write_model(end.best)

    def _write_model(self, number: int) -> None:
        """Logs the best network; last, as all else is whole without it, and exporting a large network takes time."""
        if self._store.has_model(self._run, number):
            return
        try:
            self._store.write_model(self._run, number, *self._best_model(number))
        except UserError as fault:
            log.warning("the best network is not logged as a model of MLflow, as it cannot be built here: %s", fault)
        except Exception as fault:  # export refuses networks in many ways, and an older server knows no such models
            log.warning(
                "the best network is not logged as a model of MLflow, all else is (%s); %s tries again, --set "
                "track.model=false leaves it out",
                describe_fault(fault, self._uri),
                track_command(self._folder),
            )

    def _best_model(self, number: int) -> tuple[nn.Module, ModelInputs]:
        """Returns the best trial's network, rebuilt from its file, and samples that it takes.

        Raises:
            UserError: it cannot be built here.
        """
        from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint, rebuild
        from autoprune.running.setup import task_of

        folder = RunFolder(self._folder)
        stored = read_checkpoint(folder.weights_of(number))
        if stored is None:
            raise CheckpointError(f"{folder.weights_of(number)} is no pruned checkpoint of autoprune")
        dense: Any = self._dense
        if dense is None and stored.model not in registry.MODELS:
            dense = task_of(load_experiment(folder.experiment)).network
        return rebuild(stored, dense), stored.example_inputs()


@contextlib.contextmanager
def answering(uri: str | None) -> Iterator[str]:
    """Gives the URI of the store that a run with this setting writes to; what it raises in the body becomes one line.

    Args:
        uri: as the run has it; the one that is given has the full path of a local store.

    Raises:
        UserError: it is a local store that does not exist.
        AutopruneError: the store does not answer.
    """
    store = resolve_uri(uri)
    path = local_path(store)
    if path is not None and not Path(path).is_file():
        raise UserError(
            f"there is no MLflow store at {store}; run `autoprune search` here first, "
            "change to the folder it was run in, or name the store with --tracking-uri"
        )
    try:
        yield store
    except AutopruneError:
        raise
    except Exception as fault:  # MLflow lets through the exceptions of every store and transport
        raise AutopruneError(
            f"the MLflow store {redact(store, store)} does not answer ({describe_fault(fault, store)}); start it, name "
            "another with --tracking-uri, or give the run's folder"
        ) from fault


def find_run(run_id: str, uri: str | None) -> tuple[Path, int | None]:
    """Returns the folder of the search that an MLflow run shows, and the trial's number if it is a trial's run.

    Raises:
        UserError: there is no such run, it is not of a search by autoprune, or the search's folder is not here.
        AutopruneError: the store does not answer.
    """
    with answering(uri) as store:
        own = tags_of(run_id, store)
        number = own.get("autoprune.number")
        tags = own if number is None else tags_of(own["mlflow.parentRunId"], store)
    if "autoprune.folder" not in tags or tags.get("autoprune.role") != SEARCH_ROLE:
        raise UserError(f"mlflow:{run_id} is no search of autoprune; give the id of a run that `autoprune ui` shows")
    folder = Path(tags["autoprune.folder"])
    try:
        is_there = run_key(folder / NAME) == tags.get("autoprune.run")
    except OSError:
        is_there = False
    if not is_there:
        raise UserError(
            f"mlflow:{run_id} mirrors a run in {folder}, which is not there (any more); give the folder itself where "
            "it is now, or download best.yaml from the artifacts of the MLflow run and give that"
        )
    return folder, None if number is None else int(number)
