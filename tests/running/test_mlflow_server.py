"""A real MLflow server that is stopped while a search runs, and started again before its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from autoprune.core.ledger import Ledger
from autoprune.core.trial import Trial
from autoprune.running.tracking import tracker
from tests.journeys import Cli, has_ended, history_of, search_in_child
from tests.running.tracking.test_mlflow_client import OFFLINE, runs

TRIALS = 24
SEARCH = ("search", "--budget", "flops=0.6", "--trials", TRIALS, "--searcher", "random", "--set", "space.protect=[]")
RUN = (*SEARCH, "--task", "tests.user_tasks:task", "--output", "run")


class Server:
    """MLflow's own server on a free port of this machine, with a store in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'store.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        with open(self._folder / "server.log", "ab") as log:
            environment = {**os.environ, **OFFLINE}
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self.answers():
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
            time.sleep(0.2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def kill(self) -> None:
        """Ends it with all its processes, without a chance to end what it is at."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def told() -> int:
    return len(history_of(Path("run")).of("told")) if Path("run/ledger.jsonl").exists() else 0


def until(child: int, condition: Callable[[], object]) -> None:
    while not condition():
        assert not has_ended(child)
        time.sleep(0.05)


def waiting() -> None:
    """Makes a search wait for the file `stopped` after a third of its trials, and for `started` after two thirds."""
    tell, gates = Ledger.told, {TRIALS // 3: Path("stopped"), 2 * TRIALS // 3: Path("started")}

    def tell_and_wait(self: Ledger, trial: Trial) -> None:
        tell(self, trial)
        while (gate := gates.get(told())) and not gate.exists():
            time.sleep(0.05)

    Ledger.told = tell_and_wait  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("again", [True, False], ids=["for the middle third", "for good"])
def test_a_server_stopped_during_a_search_costs_neither_a_trial_nor_a_line_of_the_mirror(
    autoprune: Cli, workdir: Path, capfd: pytest.CaptureFixture[str], server: Server, again: bool
) -> None:

    def outage(child: int) -> None:
        until(child, lambda: told() == TRIALS // 3)
        until(child, lambda: count_trials(server) > 1)
        server.kill()
        Path("stopped").touch()
        until(child, lambda: told() == 2 * TRIALS // 3)
        assert not server.answers()
        if again:
            server.start()
        Path("started").touch()

    assert search_in_child(*RUN, "--tracking-uri", server.uri, before=waiting, meanwhile=outage) == 0
    said = capfd.readouterr().err
    assert said.count("MLflow cannot be written") == 1
    assert len(history_of(workdir / "run").trials()) == TRIALS
    if again:
        check_complete(server, workdir / "run")
        assert "this completes it" not in " ".join(said.split())
        assert f"0 of {TRIALS} trials mirrored anew" in autoprune.succeed("track", "run").out
    else:
        assert "this completes it: autoprune track run" in " ".join(said.split())
        server.start()
        autoprune.succeed("track", "run")
    check_complete(server, workdir / "run")


def test_a_server_that_hangs_does_not_slow_a_search(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "PATIENCE", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and never answers
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        said = autoprune.succeed(*RUN, "--tracking-uri", uri).err
    assert "this completes it: autoprune track run" in " ".join(said.split())
    times = {record["event"]: record["time"] for record in history_of(workdir / "run").records}
    assert len(history_of(workdir / "run").trials()) == TRIALS
    assert times["finished"] - times["dense"] < 15  # a request waits for 20 seconds, and is made three times


def check_complete(server: Server, run: Path) -> None:
    """Every trial has one child run, whole, and each of its metrics once."""
    parent, children = runs(server.uri)
    assert parent.info.status == "FINISHED"
    trials = {trial.number: trial for trial in history_of(run).trials()}
    assert [int(child.data.tags["autoprune.number"]) for child in children] == sorted(trials)
    for child in children:
        score = trials[int(child.data.tags["autoprune.number"])].score
        assert score is not None
        assert (child.data.metrics["loss"], child.data.metrics["accuracy"]) == (score.loss, score.metrics["accuracy"])
        assert child.info.status == "FINISHED"
    steps = [point.step for point in client(server).get_metric_history(parent.info.run_id, "best_loss")]
    assert steps == list(range(1, len(trials) + 1))


def count_trials(server: Server) -> int:
    """How many trials are there; none before the search has begun to mirror itself."""
    try:
        return len(runs(server.uri)[1])
    except (AttributeError, ValueError):  # no experiment, no parent
        return 0


def client(server: Server) -> MlflowClient:
    return MlflowClient(tracking_uri=server.uri)
