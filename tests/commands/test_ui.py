"""`autoprune ui`: the server has no more in its arguments than others may read, and ends with the command."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from autoprune.commands import ui
from tests.journeys import Cli
from tests.reporting.ledgers import write_run


def test_the_store_is_not_among_the_server_s_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Server:
        def __init__(self, command: Sequence[str], **named: Any) -> None:
            given.update(named, command=command)

        def poll(self) -> int:
            return 0

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Server)
    ui._serve("postgresql://me:secret@host/db", "127.0.0.1", 5000, [], "1")
    assert "secret" not in " ".join(given["command"])
    assert given["env"]["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:secret@host/db"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def guarded(script: str, store: str = "") -> subprocess.Popen[str]:
    """A guard of a program that stands in for the server."""
    command = [sys.executable, "-c", "from autoprune.commands.ui import guard; guard()", sys.executable, "-c", script]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "MLFLOW_BACKEND_STORE_URI": store},
    )


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])
open('started.tmp', 'w').write(f'{os.getpid()} {child.pid}')
os.rename('started.tmp', 'started')
time.sleep(100)
"""


def test_a_server_ends_with_whoever_started_it_and_takes_its_own_processes_along(workdir: Path) -> None:
    guard = guarded(STUBBORN)
    until(Path("started").exists)
    processes = [int(text) for text in Path("started").read_text().split()]
    assert all(map(is_alive, processes))
    assert guard.stdin is not None
    guard.stdin.close()  # as the end of a process closes it, a killed one's too
    until(lambda: not any(map(is_alive, processes)))
    guard.wait(30)


def test_what_a_server_says_is_passed_on_without_credentials_and_so_is_its_exit_code(workdir: Path) -> None:
    script = "import sys; print('cannot log in as somebody with s/ecret', flush=True); sys.exit(3)"
    guard = guarded(script, "postgresql://somebody:s%2Fecret@host/db")
    assert guard.stderr is not None
    assert "cannot log in as *** with ***" in guard.stderr.read()
    assert guard.wait(60) == 3


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_ended_ends_mlflows_server(autoprune: Cli, workdir: Path, stop: signal.Signals) -> None:
    write_run(workdir / "run")
    autoprune.succeed("track", "run")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    command = [sys.executable, "-c", "from autoprune.cli import main; main()", "ui", "run", "--port", str(port)]
    shown = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )
    until(answers)
    shown.send_signal(stop)
    shown.wait(30)
    until(lambda: not answers())
