"""Commands end in order whatever becomes of their output, of signals, and of what the user's code does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers import rest_slow

LIST = [sys.executable, "-m", "autoprune", "list", "patterns"]
TASK = """
import os, signal, sys
from autoprune import SimpleTask
from tests.tiers import rest_slow
{code}
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_error(closed: str) -> None:
    command = f"{sys.executable} -m autoprune list patterns {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_output_that_takes_ascii_alone_gets_escapes() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([*LIST[:-1], "ü"], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert rb"\xfc" in done.stderr


def test_a_full_disk_behind_the_output_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(LIST, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("autoprune: the disk is full")


@pytest.mark.parametrize(
    ("code", "said"),
    rest_slow(
        [
            ("sys.exit(0)", "SystemExit: 0"),
            ("raise GeneratorExit", "GeneratorExit"),
            ("class Odd(BaseException): ...\nraise Odd('x')", "Odd: x"),
        ]
    ),
)
def test_a_module_that_ends_the_process_is_an_error(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(TASK.format(code=code))
    command = [sys.executable, "-m", "autoprune", "search", "--task", "mine:task", "--budget", "flops=0.5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.glob("runs/*")) == []


@pytest.mark.parametrize("stop", rest_slow(["SIGTERM", "SIGINT"]))
def test_an_interrupt_inside_somebody_elses_import_is_an_interrupt(tmp_path: Path, stop: str) -> None:
    (tmp_path / "mine.py").write_text(
        f"import os, signal\ntry:\n    os.kill(os.getpid(), signal.{stop})\n    import time; time.sleep(5)\n"
        "except BaseException as fault:\n    raise ImportError('half imported') from fault\n"
    )
    command = [sys.executable, "-m", "autoprune", "search", "--task", "mine:task", "--budget", "flops=0.5"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("autoprune: interrupted")
    assert "Traceback" not in done.stderr
