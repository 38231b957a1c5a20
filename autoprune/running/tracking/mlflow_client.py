"""The door to MLflow: the one file that imports it, which takes seconds and is put off until it is used."""

# ruff: noqa: E402  # MLflow reads some of its environment when it is imported

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sqlite3
import tempfile
import textwrap
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from urllib.request import url2pathname

from sqlalchemy.engine import make_url

from autoprune.config.credentials import redact
from autoprune.errors import AutopruneError, TaskError, UserError
from autoprune.running.tracking.mlflow_runs import Point, RunContent


def _calm_mlflow() -> None:
    """Has MLflow send no telemetry and run no jobs; a server that is down costs seconds, not minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


_calm_mlflow()

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature

if TYPE_CHECKING:
    from torch import nn

    from autoprune.graph.inputs import ModelInputs

log = logging.getLogger(__name__)

# MLflow's limits on the length of a parameter, of a tag and of a dataset's digest.
_PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = 6000, 5000, 36
_MOST_RUNS = 50_000
_REASON_LENGTH = 200
_SQLITE = "sqlite:///"
_DATABASES = ("sqlite", "mysql", "postgresql", "mssql")
_LOCK_SECONDS = 60
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
_RUN, _ROLE, _NUMBER, _TRIAL = "autoprune.run", "autoprune.role", "autoprune.number", "autoprune.trial"
_PARENT = "mlflow.parentRunId"

Named = Mapping[str, Any]
NONE: Named = MappingProxyType({})


class Store:
    """One experiment of an MLflow store.

    Args:
        uri: the store or server; None leaves it to MLflow (`MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`).
        experiment: its name.
        make: whether an experiment that is not there is made; a local store always is.

    Attributes:
        id: of the experiment.

    Raises:
        UserError: the experiment was deleted or is not there, or the store's database driver is missing.
        Exception: as every method may raise what stores and transports do; `describe_fault` says it in one line.
    """

    def __init__(self, uri: str | None, experiment: str, make: bool = True) -> None:
        self._client = connect(uri)
        found = self._client.get_experiment_by_name(experiment)
        if found is None and not make:
            raise UserError(f"the MLflow store has no experiment {experiment!r}; --experiment names it")
        if found is not None and found.lifecycle_stage != "active":
            uri, number = self._client.tracking_uri, str(found.experiment_id)
            command = ["mlflow", "experiments", "restore", "--experiment-id", number]
            raise UserError(
                f"MLflow's experiment {experiment!r} was deleted: restore it with MLFLOW_TRACKING_URI="
                f"{shlex.quote(redact(uri, uri))} {shlex.join(command)}, or name another one (setting "
                "track.experiment of a search, --experiment NAME of track and ui)"
            )
        self.id = str(found.experiment_id if found else self._make_experiment(experiment))

    def _make_experiment(self, name: str) -> str:
        folder = Path("mlruns").absolute()
        misread = self._client.tracking_uri.startswith(_DATABASES) and quote(str(folder)) != str(folder)
        # MLflow would take its own default, a plain path, for a quoted one.
        location = (folder / uuid.uuid4().hex).as_uri() if misread else None
        return str(self._client.create_experiment(name, artifact_location=location))

    def find(self, key: str, role: str) -> tuple[str, Mapping[str, str]] | None:
        """Returns the id and the tags of the run of a key and role, or None."""
        found = self._client.search_runs([self.id], f"tags.`{_RUN}` = '{key}' and tags.`{_ROLE}` = '{role}'")
        return (str(found[0].info.run_id), found[0].data.tags) if found else None

    def newest_groups(self) -> list[str]:
        """Returns the groups of the newest trial's network; none if there is no trial."""
        found = self._client.search_runs([self.id], f"tags.`{_ROLE}` = 'final'", max_results=1)
        return [name.removeprefix("keep.") for run in found for name in run.data.params if name.startswith("keep.")]

    def share_view(self, tag: str, content: str) -> None:
        """Stores a view of the user interface as a tag of the experiment; without it the interface shows its own."""
        try:
            self._client.set_experiment_tag(self.id, tag, content)
        except Exception as fault:  # MLflow lets through the exceptions of every store and transport
            reason = describe_fault(fault, self._client.tracking_uri)
            log.warning("MLflow does not take the view of the runs (%s)", reason)

    def reopen(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Shows a run as one that goes on."""
        self._client.update_run(run_id, status="RUNNING")
        self.write(run_id, tags=tags)

    def create(self, content: RunContent, parent: str | None = None) -> str:
        """Makes a run that is not closed, below another one if that is named, and returns its id."""
        if parent is None and content.parent is not None and self._has(content.parent):
            parent = content.parent
        links = {_RUN: content.key, _ROLE: content.role, _NUMBER: content.number, _PARENT: parent}
        tags = {**content.tags, **{name: str(value) for name, value in links.items() if value is not None}}
        tags = {name: value[:_TAG_LENGTH] for name, value in tags.items()}
        created = self._client.create_run(self.id, _milliseconds(content.begin), tags, content.name)
        run_id = str(created.info.run_id)
        self.write(run_id, [Point(0, content.end or content.begin, content.metrics)], content.params)
        if content.inputs:
            self._client.log_inputs(run_id, [_input(kind, *named) for kind, named in content.inputs.items()])
        return run_id

    def delete(self, run_id: str) -> None:
        """Deletes a run."""
        self._client.delete_run(run_id)

    def close(self, run_id: str, status: str, end: float) -> None:
        """Ends a run.

        Args:
            run_id: as `create` returned it.
            status: `FINISHED`, `FAILED` or `KILLED`.
            end: in seconds since 1970.
        """
        self._client.set_terminated(run_id, status, _milliseconds(end))

    def write(self, run_id: str, points: Sequence[Point] = (), params: Named = NONE, tags: Named = NONE) -> None:
        """Adds to a run, in one transaction if it is not more than MLflow takes at once.

        Args:
            run_id: as `create` returned it.
            points: of its curves; what is there already stays once.
            params: are written as text, cut off where MLflow takes no more.
            tags: likewise; a tag that is there already is replaced.
        """
        metrics = [
            Metric(name, float(value), _milliseconds(point.when), point.step)
            for point in points
            for name, value in point.metrics.items()
        ]
        chosen = [Param(name, str(value)[:_PARAM_LENGTH]) for name, value in params.items()]
        noted = [RunTag(name, value[:_TAG_LENGTH]) for name, value in tags.items()]
        self._client.log_batch(run_id, metrics, chosen, noted)

    def metrics_of(self, run_id: str) -> Mapping[str, float]:
        """Returns the newest value of each metric of a run."""
        return dict(self._client.get_run(run_id).data.metrics)

    def children(self, run_id: str) -> set[int]:
        """Returns the numbers of the trials below a run.

        A run that was half written at a crash or by a full store, or written twice, is deleted.
        """
        found = self._client.search_runs([self.id], f"tags.`{_PARENT}` = '{run_id}'", max_results=_MOST_RUNS)
        whole: set[int] = set()
        for child in reversed(found):
            number = int(child.data.tags[_NUMBER])
            if child.info.status not in ("FINISHED", "FAILED") or number in whole:
                self._client.delete_run(child.info.run_id)
            else:
                whole.add(number)
        return whole

    def write_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Stores a file with a run.

        Args:
            run_id: as `create` returned it.
            path: of the file.
            folder: of the run's artifacts; None is their root.
        """
        self._client.log_artifact(run_id, str(path), folder)

    def _has(self, run_id: str) -> bool:
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as fault:
            if fault.error_code in _NOT_THERE:
                return False
            raise

    def has_model(self, run_id: str, trial: int) -> bool:
        """Returns whether a run has a trial's network as a model."""
        outputs = self._client.get_run(run_id).outputs
        logged = [self._client.get_logged_model(each.model_id) for each in (outputs.model_outputs if outputs else ())]
        return any(model.tags.get(_TRIAL) == str(trial) for model in logged)

    def write_model(self, run_id: str, trial: int, network: nn.Module, inputs: ModelInputs) -> None:
        """Logs a network as a model of a run: exported, so that it runs without its own class, with its signature.

        Args:
            run_id: as `create` returned it.
            trial: number of the trial whose network it is.
            network: in evaluation mode on the CPU.
            inputs: two samples, one tensor; with one alone the number of samples would be exported as fixed.

        Raises:
            Exception: whatever export and store may raise; the run has the model whole then or not at all.
        """
        with tempfile.TemporaryDirectory() as folder:
            path, described = Path(folder) / "model", Model(run_id=run_id)
            _save_model(network, inputs, path, described)
            tags = {_TRIAL: str(trial)}
            logged = self._client.create_logged_model(self.id, "pruned", source_run_id=run_id, tags=tags)
            try:
                described.model_id = described.model_uuid = logged.model_id
                described.artifact_path = logged.artifact_location
                described.save(str(path / "MLmodel"))
                self._client.log_model_artifacts(logged.model_id, str(path))
                self._client.finalize_logged_model(logged.model_id, "READY")
                self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
            except Exception:
                with contextlib.suppress(Exception):  # the store may be the one that failed
                    self._client.delete_logged_model(logged.model_id)
                raise


def _save_model(network: nn.Module, inputs: ModelInputs, path: Path, described: Model) -> None:
    """Writes a network's files, and into `described` what they are."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    import mlflow.pytorch

    root.setLevel(level)  # its import sets up the log of the whole process, errors alone
    root.handlers[:] = handlers
    import torch

    from autoprune.evaluation.checkpoints.export import suppress_export_output

    samples = inputs.tensor
    if samples is None:
        raise TaskError(f"MLflow's models take one tensor, and this network takes {inputs}")
    with torch.no_grad():
        outputs = network(samples)
    signature = infer_signature(samples.numpy(), outputs.numpy() if isinstance(outputs, torch.Tensor) else None)
    with suppress_export_output():
        mlflow.pytorch.save_model(
            network,
            path,
            mlflow_model=described,
            signature=signature,
            input_example=samples.numpy(),
            # Named, as MLflow would find them out by loading the model in another process.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            serialization_format="pt2",
        )


def _input(kind: str, name: str, digest: str) -> DatasetInput:
    dataset = Dataset(name, digest[:_DIGEST_LENGTH], "autoprune", f'{{"kind": "{kind}"}}')
    return DatasetInput(dataset, [InputTag("mlflow.data.context", kind)])


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def connect(uri: str | None) -> mlflow.MlflowClient:
    """Returns a client of a store; a local one is made where it is not there, MLflow is kept quiet and at home.

    Raises:
        UserError: the driver of the store's database is not installed.
        Exception: the store cannot be opened.
    """
    store = resolve_uri(uri)
    for name in ("mlflow", "alembic"):  # its import sets the levels anew
        logging.getLogger(name).setLevel(logging.WARNING)
    if store.startswith(_DATABASES):
        _open_database(store)
    return mlflow.MlflowClient(tracking_uri=store)


def resolve_uri(uri: str | None) -> str:
    """Returns the URI under which MLflow opens a store (None is its own choice); a local one's has its full path."""
    _calm_mlflow()  # once more, as whoever calls from Python may have another environment by now
    store = str(uri or mlflow.get_tracking_uri())
    if not uri and not mlflow.is_tracking_uri_set() and store.startswith(_SQLITE):  # type: ignore[no-untyped-call]
        return _sqlite_uri(url2pathname(store.removeprefix(_SQLITE)))  # MLflow quotes the path of its default
    path = local_path(store)
    return store if path is None else _sqlite_uri(path)


def local_path(store: str) -> str | None:
    """Returns the whole path of a local database; None for any other store, and for one that is opened with options.

    SQLAlchemy takes a path as it is up to release 2.0, and unquotes it from 2.1 on.
    """
    if not store.startswith(_SQLITE):
        return None
    url = make_url(store)
    return None if url.query or url.database in (None, ":memory:") else os.path.abspath(url.database)


def _sqlite_uri(path: str) -> str:
    """Returns a URI of a local database.

    It is not quoted where that can be helped: MLflow makes the folder that it names, and does not unquote its name.
    """
    uris = [f"{_SQLITE}{text}" for text in (path, os.path.relpath(path), quote(path))]
    return next((uri for uri in uris if local_path(uri) == path), uris[0])


def _open_database(store: str) -> None:
    """Opens a database once, as MLflow itself would try it for about 100 seconds; makes a local one.

    Raises:
        UserError: its driver is not installed.
    """
    from mlflow.store.db.utils import create_sqlalchemy_engine

    path = local_path(store)
    if path is not None:
        _make_database(Path(path))
    try:
        engine = create_sqlalchemy_engine(store)  # type: ignore[no-untyped-call]
    except ModuleNotFoundError as fault:
        raise UserError(
            f"the database of {redact(store, store)} needs the Python package {fault.name}, which is not installed: "
            "install it, or name another store with --tracking-uri"
        ) from fault
    engine.connect().close()
    engine.dispose()


def _make_database(path: Path) -> None:
    """Fills a local database that is not there or empty with MLflow's tables, in one transaction.

    MLflow takes seconds for it in many steps, and what a kill leaves half made it can never open again.
    """
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    def is_empty(database: sqlite3.Connection) -> bool:
        return database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS)) as database:
            if not is_empty(database):
                return
    engine = create_sqlalchemy_engine("sqlite://")  # type: ignore[no-untyped-call] # in memory
    _initialize_tables(engine)  # type: ignore[no-untyped-call]
    with contextlib.closing(engine.raw_connection()) as made:
        statements = list(made.driver_connection.iterdump())[1:-1]  # without its BEGIN and COMMIT
    engine.dispose()
    with contextlib.closing(sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        if is_empty(database):  # else another process was faster
            for statement in statements:
                database.execute(statement)
        database.execute("COMMIT")


def describe_fault(fault: BaseException, uri: str | None) -> str:
    """Returns in one line, without credentials, what a store, a transport or a library raised.

    Args:
        uri: the store, as it was given; None is MLflow's own choice.
    """
    if isinstance(fault, AutopruneError):
        return redact(str(fault), uri)
    if uri is None:
        uri = mlflow.get_tracking_uri()
    while fault.__cause__ is not None:
        fault = fault.__cause__
    text = textwrap.shorten(redact(str(fault), uri), _REASON_LENGTH, placeholder="…")
    return f"{type(fault).__name__}: {text}"


def tags_of(run_id: str, store: str) -> Mapping[str, str]:
    """Returns the tags of a run.

    Raises:
        UserError: the store has none of that id.
        Exception: whatever the store raises.
    """
    try:
        return dict(connect(store).get_run(run_id).data.tags)
    except MlflowException as fault:
        if fault.error_code not in _NOT_THERE:
            raise
        raise UserError(
            f"mlflow:{run_id}: no such run in {redact(store, store)} ({describe_fault(fault, store)}); copy the id "
            "from `autoprune ui`, or name another store with --tracking-uri"
        ) from fault
