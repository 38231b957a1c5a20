"""What becomes of a search with workers when the process that drives them is stopped or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.journeys import OWN, Cli, history_of
from tests.repository import REPOSITORY

pytestmark = pytest.mark.slow

RUN = (*OWN, "--task", "tests.user_tasks:task", "--searcher", "random", "--set", "space.protect=[]")
RUN = (*RUN, "--trials", "20", "--workers", "2", "--output", "run")
# A process that is started in the background ignores Ctrl-C.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from autoprune.cli import main; sys.exit(main(sys.argv[1:]))"
)


@pytest.fixture
def driver(workdir: Path) -> subprocess.Popen[str]:
    """A search with two workers in a process of its own, some trials done."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *RUN],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 400
    while len(told()) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def told() -> list[int]:
    return [r["number"] for r in history_of(Path("run")).of("told")] if Path("run/ledger.jsonl").exists() else []


def workers() -> set[int]:
    """The processes that judged a trial so far."""
    return {int(trial.worker.rpartition(":")[2]) for trial in history_of(Path("run")).trials()}


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def interrupt(driver: subprocess.Popen[str]) -> None:
    driver.send_signal(signal.SIGINT)


def interrupt_twice(driver: subprocess.Popen[str]) -> None:
    driver.send_signal(signal.SIGINT)
    time.sleep(0.3)  # it is shutting Ray down
    driver.send_signal(signal.SIGINT)
    driver.wait(3)


def terminate(driver: subprocess.Popen[str]) -> None:
    driver.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("stop", "code"), [(interrupt, 1), (interrupt_twice, 1), (terminate, 1), (subprocess.Popen.kill, -signal.SIGKILL)]
)
def test_a_driver_that_is_stopped_leaves_no_workers_and_a_run_that_resumes(
    autoprune: Cli, driver: subprocess.Popen[str], stop: Callable[[subprocess.Popen[str]], None], code: int
) -> None:
    started = workers()
    stop(driver)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == code
    if code == 1:
        assert "autoprune: interrupted; continue with: autoprune search --resume run" in said
        assert "Traceback" not in said
    deadline = time.monotonic() + 60
    while any(map(is_alive, started)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ledger = Path("run/ledger.jsonl").read_bytes()
    before, done = ledger[: ledger.rfind(b"\n") + 1], told()
    assert 3 <= len(done) < 20
    autoprune.succeed("search", "--resume", "run", "--workers", "0")
    assert Path("run/ledger.jsonl").read_bytes().startswith(before)
    assert told()[: len(done)] == done
    assert sorted(told()) == list(range(20))
    assert not [path for path in Path("run").iterdir() if path.name == "ray" or path.name.startswith("shared-")]
