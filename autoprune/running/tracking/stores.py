"""Which MLflow store and experiment a run was mirrored in."""

from __future__ import annotations

import os
from pathlib import Path

from autoprune.config import credentials
from autoprune.errors import UserError
from autoprune.reporting.record import read_record

EXPERIMENT = "autoprune"


def store_of_run(folder: Path, uri: str | None, experiment: str | None) -> tuple[str | None, str]:
    """The store (None: MLflow's default) and the experiment of a run; what is given wins.

    Raises:
        RunFolderError: the folder is no run.
        UserError: the store was named with credentials, which are not kept.
    """
    record = read_record(folder)
    kept = record.setting("track.uri")
    if uri is None and kept is not None and credentials.are_masked(kept):
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            raise UserError(
                f"the credentials of the tracking URI {kept} are not stored with a run; "
                "give it again with --tracking-uri or set MLFLOW_TRACKING_URI"
            )
        kept = None
    return uri or kept, experiment or record.setting("track.experiment", EXPERIMENT)
