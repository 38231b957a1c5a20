"""Whole journeys, as the tests of the upper floors take them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from autoprune.cli import main
from autoprune.core.ledger import History, read_history
from autoprune.core.trial import Score, Trial

TINY = ("--trials", "4", "--set", "sensitivity.levels=2", "--set", "sensitivity.samples=100")
TINY = (*TINY, "--set", "evaluation.samples=100", "--set", "track.model=false")
UNTRACKED = ("--set", "track.enabled=false")
HALF = ("--budget", "flops=0.5")
SEARCH = ("search", *HALF, *TINY, *UNTRACKED)
"""A search on digits that takes a second."""
OWN = ("search", "--budget", "flops=0.6", "--trials", "3", "--set", "sensitivity.levels=2", *UNTRACKED)
"""The same for a task of `tests.user_tasks`, to be named with `--task`."""
BEST, UNIFORM = "best (trial", "uniform (trial"


@dataclass(frozen=True)
class Outcome:
    """What a command came to."""

    code: int
    out: str
    err: str


class Cli:
    """Types commands in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object) -> Outcome:
        self._capture.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = self._capture.readouterr()
        return Outcome(code, captured.out, captured.err)

    def succeed(self, *arguments: object) -> Outcome:
        """A command that should end well."""
        outcome = self(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def refused(self, *arguments: object, code: int = 2) -> str:
        """The message of a command that the user has to mend; nothing else may be printed."""
        outcome = self(*arguments)
        assert outcome.code == code, outcome
        assert outcome.out == ""
        assert "Traceback" not in outcome.err
        said = [line for line in outcome.err.splitlines() if line.startswith("autoprune: ")]
        assert len(said) == 1, outcome.err
        return outcome.err.partition("autoprune: ")[2]


@dataclass(frozen=True)
class DigitsRun:
    """A finished run with the folder that the search was typed in, which holds MLflow's store."""

    home: Path
    folder: Path

    @property
    def store(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def copy(self, to: Path) -> Path:
        """The run's folder copied into another one."""
        return shutil.copytree(self.folder, to / "run")


def make_digits_run(home: Path, trained: Path) -> DigitsRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("XDG_CACHE_HOME", str(trained))
        patch.setattr(signal, "signal", lambda *_: None)
        assert main(["search", *HALF, *TINY, "--set", "track.model=true", "--output", "run"]) == 0
    return DigitsRun(home, home / "run")


def left_behind(folder: Path) -> list[str]:
    """What lies in a folder, by name."""
    return sorted(path.name for path in folder.iterdir())


def in_child(action: Callable[[], int], limit: int = 120, meanwhile: Callable[[int], None] = lambda _: None) -> int:
    """The exit code of an action in a forked process; minus the signal's number if one ended it.

    Args:
        limit: seconds after which the process is ended.
        meanwhile: called with the process's id while it runs.
    """
    child = os.fork()
    if child == 0:
        code = 70
        try:
            signal.alarm(limit)
            code = action()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        meanwhile(child)
    finally:
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def has_ended(child: int) -> bool:
    """Whether a forked process has ended that nobody has waited for yet."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def search_in_child(
    *arguments: object, before: Callable[[], None] = lambda: None, meanwhile: Callable[[int], None] = lambda _: None
) -> int:
    """Exit code of a command in a forked process, which first calls `before`; `meanwhile` as in `in_child`."""

    def action() -> int:
        before()
        return main([str(argument) for argument in arguments])

    return in_child(action, meanwhile=meanwhile)


def fresh_process(code: str, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """What a Python program prints that knows nothing of this process."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def trial_results(history: History) -> list[tuple[int, dict[str, int], Score | None]]:
    """Number, widths and score of each trial, in the order told."""
    return [_trial_result(trial) for trial in history.trials()]


def _trial_result(trial: Trial) -> tuple[int, dict[str, int], Score | None]:
    return trial.number, trial.candidate.allocation.to_json(), trial.score


def history_of(folder: Path) -> History:
    return read_history(folder)


def unbroken_runs(folders: pytest.TempPathFactory, options: Callable[[str], Sequence[object]]) -> Callable[[str], Path]:
    """Gives the folder of an unbroken run by searcher; each is searched once, in a process of its own.

    Args:
        options: those of the search, by searcher.
    """

    @cache
    def run(searcher: str) -> Path:
        folder = folders.mktemp(searcher) / "run"
        assert search_in_child(*options(searcher), "--searcher", searcher, "--output", folder) == 0
        return folder

    return run
