"""The door to MLflow: the one file that imports it."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autoprune.config.credentials import mask
from autoprune.errors import AutopruneError, UserError
from autoprune.evaluation.checkpoints.export import in_one_line, suppress_export_output

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import Model

    from autoprune.running.tracking.tracker import BestModel

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
PARAM_LENGTH = 6000
TAG_LENGTH = 5000
# MLflow's limit on the length of a dataset's digest.
_DIGEST_LENGTH = 36
_SQLITE = "sqlite:///"
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
MODEL = "pruned"
"""What the best network is called as a model of MLflow."""
_TRIAL = "autoprune.trial"


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


def write(
    store: MlflowClient,
    run_id: str,
    metrics: Mapping[str, float],
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    when: int | None = None,
    step: int = 0,
) -> None:
    """Adds to a run, all at once.

    Args:
        when: the metrics were measured, in milliseconds since 1970; None is now.
    """
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000) if when is None else when
    store.log_batch(
        run_id,
        [Metric(name, float(value), now, step) for name, value in metrics.items()],
        [Param(name, str(value)[:PARAM_LENGTH]) for name, value in (params or {}).items()],
        [RunTag(name, value[:TAG_LENGTH]) for name, value in (tags or {}).items()],
    )


def write_inputs(store: MlflowClient, run_id: str, digests: Mapping[str, tuple[str, str]]) -> None:
    """Notes what a run read, as MLflow's datasets: by what it is for, a name and a digest."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(name, digest[:_DIGEST_LENGTH], "autoprune", f'{{"kind": "{kind}"}}'),
            [InputTag("mlflow.data.context", kind)],
        )
        for kind, (name, digest) in digests.items()
    ]
    store.log_inputs(run_id, inputs)


def write_model(store: MlflowClient, run_id: str, model: BestModel) -> None:
    """Logs a network as a model of a run: exported, so that it runs without its own class, with signature and example.

    A run that has the trial's network already is left as it is.

    Raises:
        Exception: whatever export and store may raise; the run has the model whole then or not at all.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run = store.get_run(run_id)
    if any(_is_of(store, output.model_id, model) for output in (run.outputs.model_outputs if run.outputs else ())):
        return
    with tempfile.TemporaryDirectory() as folder:
        path, described = Path(folder) / "model", Model(run_id=run_id)
        _save(model, path, described)
        tags = {_TRIAL: str(model.trial)}
        logged = store.create_logged_model(run.info.experiment_id, MODEL, source_run_id=run_id, tags=tags)
        try:
            described.model_id = described.model_uuid = logged.model_id
            described.artifact_path = logged.artifact_location
            described.save(str(path / "MLmodel"))
            store.log_model_artifacts(logged.model_id, str(path))
            store.finalize_logged_model(logged.model_id, "READY")
            store.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
        except Exception:
            with contextlib.suppress(Exception):  # the store may be the one that failed
                store.delete_logged_model(logged.model_id)
            raise


def _is_of(store: MlflowClient, model_id: str, model: BestModel) -> bool:
    return bool(store.get_logged_model(model_id).tags.get(_TRIAL) == str(model.trial))


def _save(model: BestModel, path: Path, described: Model) -> None:
    """Writes a model's files, and into `described` what they are."""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    inputs = model.inputs.numpy()
    with torch.no_grad():
        outputs = model.network(model.inputs)
    signature = infer_signature(inputs, outputs.numpy() if isinstance(outputs, torch.Tensor) else None)
    with suppress_export_output():
        mlflow.pytorch.save_model(
            model.network,
            path,
            mlflow_model=described,
            signature=signature,
            input_example=inputs,
            # Named, as MLflow would find them out by loading the model in another process.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            serialization_format="pt2",
        )


def active_run(store: MlflowClient, run_id: str) -> Run | None:
    """A run that is in the store and not deleted, or None."""
    from mlflow.exceptions import MlflowException

    try:
        run = store.get_run(run_id)
    except MlflowException:  # the store was emptied since, or it is another one
        return None
    return run if run.info.lifecycle_stage == "active" else None


def is_whole(child: Run) -> bool:
    """Whether a child run was written to its end."""
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
    _make_database(uri)
    return MlflowClient(tracking_uri=uri)


def _make_database(uri: str | None) -> None:
    """Makes a local store that is not there, whole or not at all.

    MLflow takes seconds for it, and what a kill leaves half made it can never open again.
    """
    import mlflow
    from mlflow import MlflowClient

    store = str(uri or mlflow.get_tracking_uri())
    path = Path(store.removeprefix(_SQLITE))
    if not store.startswith(_SQLITE) or "?" in store or path.exists() or not path.parent.is_dir():
        return
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        part = Path(folder).absolute() / path.name
        MlflowClient(tracking_uri=f"{_SQLITE}{part}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was faster
            try:
                os.link(part, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                os.rename(part, path)


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


def tags_of(run_id: str, uri: str | None) -> Mapping[str, str]:
    """The tags of a run.

    Raises:
        UserError: the store has none of that id.
        AutopruneError: the store does not answer.
    """
    from mlflow.exceptions import MlflowException

    store = client(store_uri(uri))
    try:
        found: Mapping[str, str] = store.get_run(run_id).data.tags
    except MlflowException as fault:
        where, reason = mask(store.tracking_uri), mask(in_one_line(fault))
        if fault.error_code in _NOT_THERE:
            raise UserError(
                f"mlflow:{run_id}: no such run in {where} ({reason}); copy the id from `autoprune ui`, or name another "
                "store with --tracking-uri"
            ) from fault
        raise AutopruneError(
            f"the MLflow store {where} does not answer ({reason}); start it, name another with --tracking-uri, or give "
            "the run's folder"
        ) from fault
    return found


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


def mirror_of(uri: str, experiment: str, key: str) -> str | None:
    """The id of the run that mirrors a search; None if the store has none.

    Args:
        key: see `RunDescription.key`.
    """
    found = client(uri).search_runs(
        [experiment_id(uri, experiment)], f"tags.`autoprune.run` = '{key}' and tags.`autoprune.role` = 'search'"
    )
    return str(found[0].info.run_id) if found else None


def newest_groups(uri: str, experiment: str) -> list[str]:
    """The groups of the newest trial's network; none if there is no trial."""
    found = client(uri).search_runs([experiment_id(uri, experiment)], "tags.`autoprune.role` = 'final'", max_results=1)
    return [name.removeprefix("keep.") for run in found for name in run.data.params if name.startswith("keep.")]


def share_view(uri: str, experiment: str, tag: str, content: str) -> None:
    """Stores a view of the user interface; without it the interface shows its own table."""
    Guard()(lambda: client(uri).set_experiment_tag(experiment, tag, content))
