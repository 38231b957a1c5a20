"""`autoprune ui`."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time

from autoprune.config import load_experiment
from autoprune.errors import AutopruneError, UserError


def run(arguments: argparse.Namespace) -> None:
    """Starts MLflow's user interface on the store of a run and prints the address of its table of runs."""
    from autoprune.running.folder import existing_folder

    uri = arguments.tracking_uri
    if arguments.folder is not None and uri is None:
        uri = load_experiment(existing_folder(arguments.folder).experiment).tracking_uri()
    _check_port(arguments.host, arguments.port)
    from autoprune.running.mlflow_tracker import experiment_id, store_uri

    store = store_uri(uri)
    number = experiment_id(store, arguments.experiment)
    if store.startswith(("http://", "https://")):
        print(f"the runs are at {store}/#/experiments/{number}?workflowType=machine_learning")
        return
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--workers", "1"]
    server = subprocess.Popen([*command, "--host", arguments.host, "--port", str(arguments.port)])
    try:
        if _answers(server, arguments.host, arguments.port):
            place = f"http://{arguments.host}:{arguments.port}/#/experiments/{number}?workflowType=machine_learning"
            print(f"\nthe runs are at {place}\n(Ctrl-C ends it)", flush=True)
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
