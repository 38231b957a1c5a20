"""The mirror of a run in MLflow; the one file that imports it."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autoprune.core.settings import text_of, written
from autoprune.core.trial import Failure, Outcome, Score, Stopped, Trial
from autoprune.errors import UserError
from autoprune.running.tracking import RunDescription, RunOutcome

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

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
_NOT_IN_NAMES = re.compile(r"[^\w\-./: ]")
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


class MlflowTracker:
    """One parent run for the search, one child run for each trial.

    Args:
        uri: the store or server; None leaves it to MLflow (`MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`).
        experiment: name of the MLflow experiment.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        self._uri = uri
        self._experiment = experiment
        self._guard = Guard()
        self._parent = ""
        self._experiment_id = ""
        self._run: RunDescription | None = None
        self._mirrored: set[int] = set()

    def start(self, run: RunDescription, known: str | None) -> str | None:
        self._run = run
        return self._guard(lambda: self._open(run, known))

    def told(self, trial: Trial) -> None:
        if trial.number not in self._mirrored:
            self._mirrored.add(trial.number)
            self._guard(lambda: self._child(trial))

    def finish(self, outcome: RunOutcome) -> None:
        self._guard(lambda: self._close(outcome))

    def interrupt(self) -> None:
        self._guard(lambda: self._client.set_terminated(self._parent, "KILLED"))

    def _open(self, run: RunDescription, known: str | None) -> str:
        self._client: MlflowClient = client(self._uri)
        self._experiment_id = open_experiment(self._client, self._experiment)
        self._parent = self._reopened(known) or self._new_parent(run)
        children = self._client.search_runs(
            [self._experiment_id], f"tags.`mlflow.parentRunId` = '{self._parent}'", max_results=50000
        )
        self._mirrored = {int(child.data.tags["autoprune.number"]) for child in children if _is_whole(child)}
        for child in children:
            if not _is_whole(child):  # a crash or a full store left it half written; it is written anew
                self._client.delete_run(child.info.run_id)
        return self._parent

    def _reopened(self, known: str | None) -> str | None:
        from mlflow.exceptions import MlflowException

        if known is None:
            return None
        try:
            self._client.get_run(known)
        except MlflowException:  # the store was emptied since: a new parent is written from the ledger
            return None
        self._client.update_run(known, status="RUNNING")
        return known

    def _new_parent(self, run: RunDescription) -> str:
        tags = {
            "autoprune.role": "search",
            "autoprune.folder": str(run.folder.resolve()),
            "autoprune.budget": run.budget,
            "autoprune.costs": str(run.params["costs"]),
        }
        created = self._client.create_run(self._experiment_id, tags=tags, run_name=run.folder.resolve().name)
        run_id = str(created.info.run_id)
        dense = {f"dense_{kind}": float(cost) for kind, cost in run.dense.items()}
        self._log(run_id, dense, {"budget": run.budget, **run.params}, {})
        return run_id

    def _child(self, trial: Trial) -> None:
        assert self._run is not None  # told comes after start
        tags = {
            "mlflow.parentRunId": self._parent,
            "autoprune.role": trial.candidate.role,
            "autoprune.number": str(trial.number),
            "autoprune.budget": self._run.budget,
            "autoprune.costs": str(self._run.params["costs"]),
            "autoprune.state": _STATES[type(trial.outcome)],
        }
        if isinstance(trial.outcome, Failure):
            tags["autoprune.failure"] = f"{trial.outcome.kind}: {trial.outcome.reason}"[:_TAG_LENGTH]
        end = int(time.time() * 1000)
        begin = end - int(trial.seconds * 1000)
        created = self._client.create_run(self._experiment_id, begin, tags, run_name=str(trial.number))
        self._log(created.info.run_id, trial_metrics(trial, self._run.dense), trial_params(trial, self._run.params), {})
        status = "FAILED" if isinstance(trial.outcome, Failure) else "FINISHED"
        self._client.set_terminated(created.info.run_id, status, end)

    def _log(
        self, run_id: str, metrics: Mapping[str, float], params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            [Metric(name, float(value), now, 0) for name, value in metrics.items()],
            [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in params.items()],
            [RunTag(name, value) for name, value in tags.items()],
        )

    def _close(self, outcome: RunOutcome) -> None:
        known = self._client.get_run(self._parent).data.metrics  # of a run that had finished and was resumed
        changed = {name: value for name, value in outcome.metrics.items() if known.get(name) != value}
        self._log(self._parent, changed, {}, {"autoprune.best_trial": str(outcome.best)})
        for path in outcome.files:
            self._client.log_artifact(self._parent, str(path), "weights" if path.suffix == ".pt" else None)
        self._client.set_terminated(self._parent, "FINISHED")


def _is_whole(child: Run) -> bool:
    return child.info.status in ("FINISHED", "FAILED")


def trial_metrics(trial: Trial, dense: Mapping[str, int]) -> dict[str, float]:
    """What a child run shows of a trial, by name."""
    metrics: dict[str, float] = {kind: float(cost) for kind, cost in trial.costs.items()}
    for kind in ("flops", "params"):
        if kind in trial.costs:
            metrics[f"{kind}_kept"] = trial.costs[kind] / dense[kind]
    if isinstance(trial.outcome, Score):
        metrics |= _score_metrics(trial.outcome)
    elif isinstance(trial.outcome, Stopped):  # on a part of the images, so not under the names of whole judgements
        metrics |= {f"stopped_{name}": value for name, value in _score_metrics(trial.outcome.score).items()}
    return {**metrics, "seconds": trial.seconds}


def _score_metrics(score: Score) -> dict[str, float]:
    known = {"accuracy": score.accuracy, "loss": score.loss, "kl": score.kl, "images": score.images}
    return {name: float(value) for name, value in known.items() if value is not None}


def trial_params(trial: Trial, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a child run shows of a candidate, by name."""
    recipe, settings = trial.candidate.recipe, trial.candidate.settings
    return {
        "searcher": params["searcher"],
        "pruner": params["pruner"],
        "costs": params["costs"],
        "recipe": " ".join(f"{name}={setting}" for name, setting in recipe.to_json().items()),
        "settings": written(dict(sorted(settings.items()))) or "none",
        **{f"settings.{_NOT_IN_NAMES.sub('_', name)}": text_of(value) for name, value in settings.items()},
        **{f"keep.{group}": width for group, width in trial.candidate.allocation.items()},
    }


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
