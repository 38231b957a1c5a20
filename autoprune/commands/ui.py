"""`autoprune ui`."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.errors import AutopruneError, UserError

if TYPE_CHECKING:
    from autoprune.running.tracking.mlflow_view import View


def run(arguments: argparse.Namespace) -> None:
    """Starts MLflow's user interface on the store of a run and prints the addresses of its table and charts."""
    from autoprune.running.tracking.stores import EXPERIMENT, store_of_run

    uri, experiment = arguments.tracking_uri, arguments.experiment or EXPERIMENT
    if arguments.folder is not None:
        uri, experiment = store_of_run(arguments.folder, uri, arguments.experiment)
    _check_port(arguments.host, arguments.port)
    from autoprune.running.tracking.mlflow_client import experiment_id, share_view, store_uri

    store = store_uri(uri)
    number, views = experiment_id(store, experiment), _views(arguments.folder, store, experiment)
    for view in views:
        share_view(store, number, *view.tag())
    if store.startswith(("http://", "https://")):
        print(_addresses(views, store, number))
        return
    _serve(store, arguments.host, arguments.port, views, number)


def _views(folder: Path | None, store: str, experiment: str) -> list[View]:
    """What to show: a run alone if one is named, and all searches with their trials below them.

    Raises:
        UserError: the store does not have the run.
    """
    from autoprune.running.tracking.mlflow_client import mirror_of, newest_groups
    from autoprune.running.tracking.mlflow_view import View, telling_groups

    if folder is None:
        return [View("loss", newest_groups(store, experiment))]
    from autoprune.reporting.record import read_record
    from autoprune.running.tracking.tracker import run_key

    record, key = read_record(folder), run_key(folder)
    if mirror_of(store, experiment, key) is None:
        raise UserError(f"{folder} is not in {store} yet; put it there with: autoprune track {folder}")
    groups = telling_groups([trial.candidate.allocation for trial in record.trials])
    return [View(record.objective, groups, key), View(record.objective, groups)]


def _addresses(views: Sequence[View], root: str, number: str) -> str:
    """One a line: the first view as a table and as charts, and the last one's table where there are two."""
    shown = [("table", views[0], False), ("charts", views[0], True), ("all searches", views[-1], False)]
    return "\n".join(f"{name:14}{view.address(root, number, charts)}" for name, view, charts in shown[: 1 + len(views)])


def _serve(store: str, host: str, port: int, views: Sequence[View], number: str) -> None:
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--workers", "1"]
    server = subprocess.Popen([*command, "--host", host, "--port", str(port)])
    try:
        if _answers(server, host, port):
            print(f"\n{_addresses(views, f'http://{host}:{port}', number)}\n(Ctrl-C ends it)", flush=True)
        code = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return
    if code:
        raise AutopruneError(f"MLflow's user interface ended with exit code {code}; its message stands above")


def _answers(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Waits until the server takes connections; False if it ends before."""
    while server.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return True
    return False


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as fault:
            raise UserError(f"{host}:{port} cannot be used ({fault}); choose another with --port") from fault
