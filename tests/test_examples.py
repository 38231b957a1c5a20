"""The programs in `examples/` run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def run_example(name: str, folder: Path, home: Path, limit: int = 300) -> list[str]:
    """The lines that an example prints, in a copy of the folder that holds nothing but the examples."""
    shutil.copytree(EXAMPLES, folder / "examples")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    env |= {"HOME": str(folder), "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash" if name.endswith(".sh") else sys.executable, name]
    done = subprocess.run(
        command, cwd=folder / "examples", env=env, capture_output=True, text=True, timeout=limit, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_search_of_ones_own_network_in_python(tmp_path: Path, trained_home: Path) -> None:
    said = run_example("own_network.py", tmp_path, trained_home)
    assert re.fullmatch(r"Allocation\(\{'3': \d+, '7': \d+, '12': \d+\}\)", said[0])
    assert [line.split()[0] for line in said[1:]] == ["dense", "uniform", "best"]
    assert (tmp_path / "examples" / "search" / "best.yaml").is_file()


def test_metrics_of_ones_own_where_nothing_is_classified(tmp_path: Path, trained_home: Path) -> None:
    header, *rows = run_example("denoise_task.py", tmp_path, trained_home)[1:]
    assert header.split()[:4] == ["network", "psnr", "mae", "loss"]
    psnr = {row.split()[0]: float(re.findall(r"[\d.]+(?= dB)", row)[-1]) for row in rows}
    assert psnr["dense"] > psnr["best"] > psnr["uniform"]


@pytest.mark.slow
def test_gradual_pruning_in_a_training_loop_of_ones_own(tmp_path: Path, trained_home: Path) -> None:
    said = run_example("training_loop.py", tmp_path, trained_home)
    assert "'3.weight': 0.8" in said[-1]


@pytest.mark.slow
def test_a_training_loop_of_ones_own_as_the_training_of_a_task(tmp_path: Path, trained_home: Path) -> None:
    said = run_example("own_training.py", tmp_path, trained_home)
    assert re.fullmatch(r"Allocation\(\{'3': \d+, '7': \d+, '12': \d+\}\)", said[-1])


@pytest.mark.slow
def test_an_allocation_in_an_optuna_study(tmp_path: Path, trained_home: Path) -> None:
    loss, rate, widths = run_example("optuna_study.py", tmp_path, trained_home)[-1].split(maxsplit=2)
    assert 0 < float(loss) < 0.6
    assert 0.003 <= float(rate) <= 0.3
    assert re.fullmatch(r"\{'0': \d+, '2': \d+\}", widths)


@pytest.mark.slow
def test_an_allocation_in_a_search_of_ray_tune(tmp_path: Path, trained_home: Path) -> None:
    loss, rate, widths = run_example("ray_tune_search.py", tmp_path, trained_home, 400)[-1].split(maxsplit=2)
    assert 0 < float(loss) < 1.0
    assert 0.003 <= float(rate) <= 0.3
    assert re.fullmatch(r"Allocation\(\{'0': \d+, '2': \d+\}\)", widths)


@pytest.mark.slow
def test_the_command_line_in_a_shell(tmp_path: Path, trained_home: Path) -> None:
    said = run_example("command_line.sh", tmp_path, trained_home)
    assert any(line.startswith("pruned.pt on 397 test samples") for line in said)
    assert (tmp_path / "examples" / "run" / "report" / "index.html").is_file()
