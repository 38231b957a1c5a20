"""What `apply` is given: a run's folder, a `best.yaml`, or a run in MLflow, which leads to a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import UserError
from autoprune.running.run_folder import EXPERIMENT


@dataclass(frozen=True)
class Source:
    """A run's folder, or a `best.yaml`.

    Attributes:
        trial: the number of the folder's trial; None is the best.
    """

    path: Path
    trial: int | None = None


def find_source(text: str, trial: int | None, tracking_uri: str | None) -> Source:
    """Returns what a text names.

    Args:
        text: a path, or `mlflow:RUN_ID`.
        trial: the trial that is asked for; it wins over the one that a child run in MLflow stands for.
        tracking_uri: MLflow's store; None is MLflow's own choice.

    Raises:
        UserError: there is no such thing, or a trial is asked of a file.
        AutopruneError: the store does not answer.
    """
    if text.startswith("mlflow:"):
        from autoprune.running.tracking.sync import find_run

        folder, number = find_run(text.removeprefix("mlflow:"), tracking_uri)
        return Source(folder, number if trial is None else trial)
    path = Path(text)
    if path.is_dir() and not (path / EXPERIMENT).is_file():
        raise UserError(f"{path} is no run of autoprune: it has no {EXPERIMENT}; name a folder that a search wrote")
    if not path.exists():
        raise UserError(f"no such run or file: {path}; give a run's folder, a best.yaml or mlflow:RUN_ID")
    if path.is_file() and trial is not None:
        raise UserError("--trial picks from a run's folder; a file of widths holds one allocation")
    return Source(path, trial)
