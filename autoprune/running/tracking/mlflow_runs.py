"""Which run's folder an MLflow run mirrors."""

from __future__ import annotations

from pathlib import Path

from autoprune.errors import UserError
from autoprune.running.tracking.mlflow_client import tags_of
from autoprune.running.tracking.tracker import run_key


def find_run(run_id: str, uri: str | None) -> tuple[Path, int | None]:
    """The folder of the search that an MLflow run mirrors, and the trial's number if it is a child run.

    Raises:
        UserError: there is no such run, it is not of a search by autoprune, or the search's folder is not here.
        AutopruneError: the store does not answer.
    """
    own = tags_of(run_id, uri)
    number = own.get("autoprune.number")
    tags = own if number is None else tags_of(own["mlflow.parentRunId"], uri)
    if "autoprune.folder" not in tags or tags.get("autoprune.role") == "training":
        raise UserError(f"mlflow:{run_id} is no search of autoprune; give the id of a run that `autoprune ui` shows")
    folder = Path(tags["autoprune.folder"])
    key = _key_in(folder)
    if key is None or tags.get("autoprune.run", key) != key:  # earlier releases left no key
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
