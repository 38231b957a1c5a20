"""`autoprune track`."""

from __future__ import annotations

import argparse

from autoprune.errors import AutopruneError, RunFolderError, UserError


def run(arguments: argparse.Namespace) -> None:
    """Brings MLflow's mirror of a run up to its records, or makes it in another store, and says what it added.

    Raises:
        RunFolderError: the folder is no run, or a process writes to it.
        UserError: the store is not one, or its experiment was deleted.
        AutopruneError: the store cannot be written.
    """
    from autoprune.reporting.record import is_being_written
    from autoprune.running.tracking.mlflow_runs import TRAINING, store_of_run

    folder = arguments.folder
    uri, experiment = store_of_run(folder, arguments.tracking_uri, arguments.experiment)
    if is_being_written(folder) or is_being_written(folder, TRAINING):
        raise RunFolderError(f"{folder} is being written by a process, which mirrors it itself; wait for its end")
    from autoprune.running.tracking.mlflow_client import describe_fault  # and MLflow with it, which takes seconds
    from autoprune.running.tracking.sync import Sync

    try:
        sync = Sync(folder, uri, experiment)
        for _ in sync.update(over=True):
            pass
    except UserError:
        raise
    except Exception as fault:  # MLflow lets through the exceptions of every store and transport
        raise AutopruneError(
            f"MLflow cannot be written ({describe_fault(fault, uri)}); what is mirrored stays, try again later"
        ) from fault
    there = sync.trials - sync.added
    print(f"{sync.added} of {sync.trials} trials mirrored anew, {there} were there; the run is {sync.state}")
