"""The mirror of a run in MLflow; the one file that imports it."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autoprune.core.trial import Failure, Outcome, Score, Stopped, Trial
from autoprune.errors import UserError
from autoprune.running.mirrored import trial_metrics, trial_params
from autoprune.running.tracking import RunDescription, RunOutcome

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Before the first import: no telemetry, no job runner; a server that is down costs seconds, not minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
# MLflow's limits on the length of a parameter and of a tag.
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
# MLflow's limit on the length of a dataset's digest.
_DIGEST_LENGTH = 36
_DIGESTED = ("checkpoint", "data")
_SQLITE = "sqlite:///"
_STATES: Mapping[type[Outcome], str] = {Score: "scored", Stopped: "stopped", Failure: "failed"}


class Guard:
    """Keeps MLflow's trouble from the run: the run's own records are the truth, MLflow their mirror."""

    def __init__(self) -> None:
        self._broken = False

    def __call__(self, action: Callable[[], Result]) -> Result | None:
        """The action's result; None, once with a warning, if MLflow fails, and from then on without trying."""
        if self._broken:
            return None
        try:
            return action()
        except Exception as fault:  # MLflow lets through the exceptions of every store and transport
            self._broken = True
            log.warning("MLflow cannot be written and is left out from here on: %s: %s", type(fault).__name__, fault)
            return None


class MlflowMirror:
    """One parent run for the search, one child run for each trial; whatever goes wrong is raised.

    Args:
        uri: the store or server; None leaves it to MLflow (`MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`).
        experiment: name of the MLflow experiment.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        self._uri = uri
        self._experiment = experiment
        self._parent = ""

    def open(self, run: RunDescription) -> Collection[int]:
        self._run = run
        self._client: MlflowClient = client(self._uri)
        self._experiment_id = open_experiment(self._client, self._experiment)
        self._parent = self._reopened(run) or self._new_parent(run)
        children = self._client.search_runs(
            [self._experiment_id], f"tags.`mlflow.parentRunId` = '{self._parent}'", max_results=50000
        )
        whole = {int(child.data.tags["autoprune.number"]): child for child in reversed(children) if _is_whole(child)}
        for child in children:
            number = int(child.data.tags["autoprune.number"])
            if whole.get(number) is not child:  # half written at a crash or by a full store, or written twice
                self._client.delete_run(child.info.run_id)
        return whole

    def told(self, trial: Trial, when: float, step: int, best: Trial | None) -> None:
        end = int(when * 1000)
        tags = {
            "mlflow.parentRunId": self._parent,
            "autoprune.role": trial.candidate.role,
            "autoprune.run": self._run.key,
            "autoprune.number": str(trial.number),
            "autoprune.budget": self._run.budget,
            "autoprune.costs": str(self._run.params["costs"]),
            "autoprune.state": _STATES[type(trial.outcome)],
            "autoprune.worker": trial.worker,
        }
        if isinstance(trial.outcome, Failure):
            tags["autoprune.failure"] = f"{trial.outcome.kind}: {trial.outcome.reason}"[:_TAG_LENGTH]
        begin = end - int(trial.seconds * 1000)
        created = self._client.create_run(self._experiment_id, begin, tags, run_name=str(trial.number))
        run_id = created.info.run_id
        self._log(run_id, trial_metrics(trial, self._run.dense), trial_params(trial, self._run.params), {}, end)
        if best is not None and best.score is not None:
            known = {"best_loss": best.score.loss, "best_accuracy": best.score.accuracy}
            self._log(self._parent, known, {}, {}, end, step)
        status = "FAILED" if isinstance(trial.outcome, Failure) else "FINISHED"
        self._client.set_terminated(run_id, status, end)

    def finish(self, outcome: RunOutcome) -> None:
        known = self._client.get_run(self._parent).data.metrics  # of a run that had finished and was resumed
        changed = {name: value for name, value in outcome.metrics.items() if known.get(name) != value}
        self._log(self._parent, changed, {}, {"autoprune.best_trial": str(outcome.best)})
        for path in outcome.files:
            self._client.log_artifact(self._parent, str(path), "weights" if path.suffix == ".pt" else None)
        self._client.set_terminated(self._parent, "FINISHED")

    def interrupt(self) -> None:
        self._client.set_terminated(self._parent, "KILLED")

    def _reopened(self, run: RunDescription) -> str | None:
        """The mirror that is in the store already; None if there is none, or it was deleted."""
        found = self._client.search_runs(
            [self._experiment_id], f"tags.`autoprune.run` = '{run.key}' and tags.`autoprune.role` = 'search'"
        )
        known = found[0].info.run_id if found else self._noted(run.known)
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._client.set_tag(known, "autoprune.run", run.key)
            self._client.set_tag(known, "autoprune.folder", str(run.folder.resolve()))
        return known

    def _noted(self, known: str | None) -> str | None:
        from mlflow.exceptions import MlflowException

        if known is None:
            return None
        try:
            return None if self._client.get_run(known).info.lifecycle_stage == "deleted" else known
        except MlflowException:  # the store was emptied since, or it is another one
            return None

    def _new_parent(self, run: RunDescription) -> str:
        tags = {
            "autoprune.role": "search",
            "autoprune.run": run.key,
            "autoprune.folder": str(run.folder.resolve()),
            "autoprune.budget": run.budget,
            "autoprune.costs": str(run.params["costs"]),
            "autoprune.command": shlex.join(run.command)[:_TAG_LENGTH],
            **{f"autoprune.{name}.digest": run.identity[name] for name in _DIGESTED if name in run.identity},
            **{f"autoprune.environment.{name}": text for name, text in run.environment.items()},
        }
        created = self._client.create_run(self._experiment_id, tags=tags, run_name=run.folder.resolve().name)
        run_id = str(created.info.run_id)
        dense = {f"dense_{kind}": float(cost) for kind, cost in run.dense.items()}
        self._log(run_id, dense, {"budget": run.budget, **run.params}, {})
        self._client.log_inputs(run_id, _datasets(run))
        return run_id

    def _log(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        when: int | None = None,
        step: int = 0,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000) if when is None else when
        self._client.log_batch(
            run_id,
            [Metric(name, float(value), now, step) for name, value in metrics.items()],
            [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in params.items()],
            [RunTag(name, value) for name, value in tags.items()],
        )


def _datasets(run: RunDescription) -> list[DatasetInput]:
    """What the run read, as MLflow's datasets: the task's data and the dense checkpoint, by their digests."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    names = {"data": str(run.identity.get("task", "data")), "checkpoint": str(run.identity.get("model", "checkpoint"))}
    return [
        DatasetInput(
            Dataset(names[kind], run.identity[kind][:_DIGEST_LENGTH], "autoprune", f'{{"kind": "{kind}"}}'),
            [InputTag("mlflow.data.context", kind)],
        )
        for kind in _DIGESTED
        if kind in run.identity
    ]


def _is_whole(child: Run) -> bool:
    return child.info.status in ("FINISHED", "FAILED")


def open_experiment(store: MlflowClient, name: str) -> str:
    """The id of an MLflow experiment, which is made if it is not there."""
    found = store.get_experiment_by_name(name)
    return str(found.experiment_id if found else store.create_experiment(name))


def client(uri: str | None) -> MlflowClient:
    """A client of the store, which is made if it is not there; MLflow kept quiet and at home."""
    _set_environment()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # its import sets the levels anew
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def store_uri(uri: str | None) -> str:
    """The store that a run with this setting writes to; a local one with its full path.

    Raises:
        UserError: it is a local one that does not exist.
    """
    _set_environment()
    import mlflow

    store = str(uri or mlflow.get_tracking_uri())
    if store.startswith(_SQLITE) and not Path(store.removeprefix(_SQLITE)).is_file():
        raise UserError(
            f"there is no MLflow store at {store}; run `autoprune search` here first, "
            "change to the folder it was run in, or name the store with --tracking-uri"
        )
    return store


def find_run(run_id: str, uri: str | None) -> tuple[Path, int | None]:
    """The folder of the search that an MLflow run mirrors, and the trial's number if it is a child run.

    Raises:
        UserError: there is no such run, or it is not one of autoprune's.
    """
    from mlflow.exceptions import MlflowException

    store = client(store_uri(uri))
    try:
        run = store.get_run(run_id)
        parent = run.data.tags.get("mlflow.parentRunId")
        tags = store.get_run(parent).data.tags if parent else run.data.tags
    except MlflowException as fault:
        raise UserError(f"mlflow:{run_id}: no such run in {store.tracking_uri} ({fault.message})") from fault
    if "autoprune.folder" not in tags:
        raise UserError(f"mlflow:{run_id} is no run of autoprune")
    number = run.data.tags.get("autoprune.number")
    return Path(tags["autoprune.folder"]), None if number is None else int(number)


def experiment_id(uri: str, name: str) -> str:
    """The id of an MLflow experiment.

    Raises:
        UserError: the store has none of that name, or cannot be reached.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client(uri).get_experiment_by_name(name)
    except MlflowException as fault:
        raise UserError(f"the MLflow store cannot be read: {fault.message}") from fault
    if found is None:
        raise UserError(f"the MLflow store has no experiment {name!r}; --experiment names it")
    return str(found.experiment_id)
