"""`autoprune track`."""

from __future__ import annotations

import argparse

from autoprune.errors import AutopruneError, UserError


def run(arguments: argparse.Namespace) -> None:
    """Completes MLflow's mirror of a run from its ledger, or makes it in another store, and says what it added."""
    from autoprune.reporting.record import read_record
    from autoprune.running.tracking.stores import store_of_run

    read_record(arguments.folder)  # what is wrong with it is said before torch and MLflow are imported
    uri, experiment = store_of_run(arguments.folder, arguments.tracking_uri, arguments.experiment)
    from autoprune.running.tracking.completing import complete
    from autoprune.running.tracking.mlflow_mirror import MlflowMirror

    try:
        done = complete(arguments.folder, MlflowMirror(uri, experiment))
    except UserError:
        raise
    except Exception as fault:  # MLflow lets through the exceptions of every store and transport
        raise AutopruneError(
            f"MLflow cannot be written ({type(fault).__name__}: {fault}); what is mirrored stays, try again later"
        ) from fault
    there = done.trials - done.added
    print(f"{done.added} of {done.trials} trials mirrored anew, {there} were there; the run is {done.record.state}")
