"""`autoprune ui`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.config.credentials import redact, without_login
from autoprune.errors import AutopruneError, UserError

if TYPE_CHECKING:
    from autoprune.running.tracking.mlflow_client import Store
    from autoprune.running.tracking.mlflow_view import View

_STORE = "MLFLOW_BACKEND_STORE_URI"
_GUARD = "from autoprune.commands.ui import guard; guard()"
_SECONDS_TO_END = 5.0


def run(arguments: argparse.Namespace) -> None:
    """Starts MLflow's user interface on the store of a run and prints the addresses of its table and charts."""
    from autoprune.running.tracking.mlflow_runs import EXPERIMENT, store_of_run

    uri, experiment = arguments.tracking_uri, arguments.experiment or EXPERIMENT
    if arguments.folder is not None:
        uri, experiment = store_of_run(arguments.folder, uri, arguments.experiment)
    _check_port(arguments.host, arguments.port)
    from autoprune.running.tracking.mlflow_client import Store  # and MLflow with it, which takes seconds
    from autoprune.running.tracking.sync import answering

    with answering(uri) as uri:
        store = Store(uri, experiment, make=False)
        views = _views(arguments.folder, store, uri)
        for view in views:
            store.share_view(*view.tag())
    if uri.startswith(("http://", "https://")):
        print(_addresses(views, without_login(uri), store.id))
        return
    _serve(uri, arguments.host, arguments.port, views, store.id)


def _views(folder: Path | None, store: Store, uri: str) -> list[View]:
    """Returns what to show: a run alone if one is named, and all searches with their trials below them.

    Raises:
        UserError: the store does not have the run.
    """
    from autoprune.core.metrics import LOSS
    from autoprune.running.tracking.mlflow_view import View, telling_groups

    if folder is None:
        return [View(LOSS, (), store.newest_groups())]
    from autoprune.core.ledger import NAME
    from autoprune.reporting.record import read_record
    from autoprune.running.tracking.mlflow_runs import SEARCH_ROLE, run_key, track_command

    record, key = read_record(folder), run_key(folder / NAME)
    if store.find(key, SEARCH_ROLE) is None:
        raise UserError(f"{folder} is not in {redact(uri, uri)} yet; put it there with: {track_command(folder)}")
    groups = telling_groups([trial.candidate.allocation for trial in record.trials])
    names = [each.name for each in record.metrics]
    return [View(record.objective, names, groups, key), View(record.objective, names, groups)]


def _addresses(views: Sequence[View], root: str, number: str) -> str:
    """Returns one address a line: the first view's table and charts, and the last one's table where there are two."""
    shown = [("table", views[0], False), ("charts", views[0], True), ("all searches", views[-1], False)]
    return "\n".join(f"{name:14}{view.address(root, number, charts)}" for name, view, charts in shown[: 1 + len(views)])


def _serve(uri: str, host: str, port: int, views: Sequence[View], number: str) -> None:
    """Runs MLflow's server below a guard, which ends it when this process ends, however it does.

    Raises:
        AutopruneError: the server ended by itself, not well.
    """
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", host, "--port", str(port)]
    environment = {**os.environ, _STORE: uri}  # not among the arguments, which every user of the machine can read
    guarded = [sys.executable, "-c", _GUARD, *command]
    server = subprocess.Popen(guarded, stdin=subprocess.PIPE, env=environment, start_new_session=True)
    try:
        if _answers(server, host, port):
            print(f"\n{_addresses(views, f'http://{host}:{port}', number)}\n(Ctrl-C ends it)", flush=True)
        code = server.wait()
    except KeyboardInterrupt:
        assert server.stdin is not None  # it is a pipe
        server.stdin.close()
        server.wait()
        return
    if code:
        raise AutopruneError(f"MLflow's user interface ended with exit code {code}; its message stands above")


def guard() -> None:
    """Runs the command in `sys.argv[1:]`, and ends it with all that it started when this process's input ends."""
    server = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which is sent to the whole group, this process too

    def end_with_input() -> None:
        while os.read(0, 1):  # not `sys.stdin`, whose lock would stop the interpreter from ending
            pass
        os.killpg(0, signal.SIGTERM)
        time.sleep(_SECONDS_TO_END)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_input, daemon=True).start()
    assert server.stdout is not None  # it is a pipe
    for line in server.stdout:
        with contextlib.suppress(OSError):  # nobody reads it any more; the server goes on
            print(redact(line, os.environ.get(_STORE)), end="", file=sys.stderr, flush=True)
    sys.exit(server.wait())


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
    """Checks that a server can listen there.

    Raises:
        UserError: it cannot.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as fault:
            raise UserError(f"{host}:{port} cannot be used ({fault}); choose another with --port") from fault
