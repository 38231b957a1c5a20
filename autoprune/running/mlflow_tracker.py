"""The door to MLflow: the one file that imports it."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from autoprune.config.credentials import mask
from autoprune.errors import AutopruneError, UserError
from autoprune.running.tracking import run_key

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from torch import Tensor, nn

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
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_SQLITE = "sqlite:///"


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


def write_model(uri: str, run_id: str, network: nn.Module, inputs: Tensor) -> None:
    """Logs a network as a model of a run, exported, with signature and example: it runs without its own class.

    What cannot be exported is left out with a warning. It takes seconds, and while it lasts MLflow's functions in
    other threads of this process write to the same store.

    Args:
        inputs: `[2, …]` samples; with one alone the number of samples would be exported as fixed.
    """
    import mlflow
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    given = os.environ.get(_URI_VARIABLE)
    try:
        with torch.no_grad():
            signature = infer_signature(inputs.numpy(), network(inputs).numpy())
        mlflow.set_tracking_uri(uri)
        with mlflow.start_run(run_id=run_id):
            mlflow.pytorch.log_model(
                network,
                name="pruned",
                signature=signature,
                input_example=inputs.numpy(),
                # Named, as MLflow would find them out by loading the model in another process.
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
                serialization_format="pt2",
            )
    except Exception as fault:  # export may refuse a network in many ways
        log.warning("the best network is not logged as a model of MLflow: %s: %s", type(fault).__name__, fault)
    finally:
        cast(Any, mlflow).set_tracking_uri(
            None
        )  # it sets the variable too, and would hold against a later change of it
        if given is not None:
            os.environ[_URI_VARIABLE] = given


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


def find_run(run_id: str, uri: str | None) -> tuple[Path, int | None]:
    """The folder of the search that an MLflow run mirrors, and the trial's number if it is a child run.

    Raises:
        UserError: there is no such run, it is not of a search by autoprune, or the search's folder is not here.
        AutopruneError: the store does not answer.
    """
    store = client(store_uri(uri))
    run = _run_of(store, run_id)
    parent = run.data.tags.get("mlflow.parentRunId")
    tags = _run_of(store, parent).data.tags if parent and "autoprune.number" in run.data.tags else run.data.tags
    if "autoprune.folder" not in tags or tags.get("autoprune.role") == "training":
        raise UserError(f"mlflow:{run_id} is no search of autoprune; give the id of a run that `autoprune ui` shows")
    folder, number = Path(tags["autoprune.folder"]), run.data.tags.get("autoprune.number")
    key = _key_in(folder)
    if key is None or tags.get("autoprune.run", key) != key:
        raise UserError(
            f"mlflow:{run_id} mirrors a run in {folder}, which is not there (any more); give the folder itself where "
            "it is now, or download best.yaml from the artifacts of the MLflow run and give that"
        )
    return folder, None if number is None else int(number)


def _key_in(folder: Path) -> str | None:
    """What identifies the run in a folder; None where none is."""
    try:
        return run_key(folder)
    except OSError:
        return None


def _run_of(store: MlflowClient, run_id: str) -> Run:
    """A run of the store.

    Raises:
        UserError: it has none of that id.
        AutopruneError: it does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        return store.get_run(run_id)
    except MlflowException as fault:
        reason = textwrap.shorten(str(fault.message), 160, placeholder="…")
        if fault.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            raise UserError(
                f"mlflow:{run_id}: no such run in {mask(store.tracking_uri)} ({reason}); copy the id from `autoprune "
                "ui`, or name another store with --tracking-uri"
            ) from fault
        raise AutopruneError(
            f"the MLflow store {mask(store.tracking_uri)} does not answer ({mask(reason)}); start it, name another "
            "with --tracking-uri, or give the run's folder"
        ) from fault


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
