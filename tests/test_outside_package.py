"""A package of one file, outside of autoprune, that brings a searcher, a criterion and a task."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from autoprune.core.ledger import read_history
from tests.journeys import UNTRACKED, Cli

GARDEN = '''
"""One's own searcher, criterion and task."""

import torch
from torch import nn

from autoprune import SimpleTask
from autoprune.pruning.criteria.base import Criterion
from autoprune.searchers.base.sequential import SequentialSearcher
from autoprune.searchers.base.moves import draw_new


class Drawing(SequentialSearcher):
    """Proposes random draws, of other numbers than `random` does."""

    uses_curves = False
    handles_settings = True

    def _next(self):
        history = self._history
        return draw_new(history, history.problem.generator(10**6 - history.number), settings=True)


def cubes(statistics):
    """Sums of cubed absolute weights."""
    return statistics.weight.abs().pow(3).sum(1)


CUBES = Criterion("cubes", cubes)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
            nn.Conv2d(12, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )


def flowers():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 1, 8, 8, generator=generator)
    targets = torch.randint(4, (64,), generator=generator)
    batches = [(inputs[i : i + 32], targets[i : i + 32]) for i in (0, 32)]
    return SimpleTask(network, train_data=batches, validation_data=batches, name="flowers")
'''


GARDEN_TESTS = """
import ap_garden
from autoprune.testing import CriterionContract, SearcherContract, TaskContract


class TestDrawing(SearcherContract):
    searcher = ap_garden.Drawing


class TestCubes(CriterionContract):
    criterion = ap_garden.CUBES


class TestFlowers(TaskContract):
    task = "ap_garden:flowers"
"""


@pytest.fixture
def garden(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file `ap_garden.py` in the current folder, not imported before or after."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (workdir / "ap_garden.py").write_text(GARDEN)
    yield workdir
    sys.modules.pop("ap_garden", None)


def test_all_three_are_named_in_one_search_and_no_file_brings_them_back(garden: Path, autoprune: Cli) -> None:
    named = (
        "--task",
        "ap_garden:flowers",
        "--searcher",
        "ap_garden:Drawing",
        "--set",
        "scoring.criterion=ap_garden:CUBES",
    )
    search = ("search", *named, "--budget", "flops=0.6", "--trials", "3", "--output", "run", *UNTRACKED)
    autoprune.succeed(*search)
    started = read_history(garden / "run").last("started")
    assert len(read_history(garden / "run").trials()) == 3
    assert started is not None
    assert started["params"]["searcher"] == "ap_garden:Drawing"
    assert started["scoring"]["criterion"] == "ap_garden:CUBES"
    autoprune.succeed("apply", "run", "--output", "a.pt")  # a run's folder is trusted as code is

    del sys.modules["ap_garden"]
    best, task = ("apply", "run/best.yaml", "--output", "b.pt"), ("--task", "ap_garden:flowers")
    assert "name it with --task" in autoprune.refused(*best)
    assert "name it with --set scoring.criterion=" in autoprune.refused(*best, *task)
    assert "ap_garden" not in sys.modules
    autoprune.succeed(*best, *task, "--set", "scoring.criterion=ap_garden:CUBES")

    content = yaml.safe_load((garden / "run" / "best.yaml").read_text())
    del sys.modules["ap_garden"]
    for key, value in (("pruner", "ap_garden:PRUNER"), ("settings", {"criterion.*": "ap_garden:CUBES"})):
        scoring = {**content["scoring"], "criterion": None}
        (garden / "changed.yaml").write_text(
            yaml.safe_dump({**content, "scoring": scoring, "task": "digits", key: value})
        )
        refused = autoprune.refused("apply", "changed.yaml", "--output", "c.pt")
        assert "ap_garden" in refused
        assert "ap_garden" not in sys.modules


def test_a_searcher_is_told_of_before_the_run_begins(garden: Path, autoprune: Cli) -> None:
    search = ("search", "--task", "ap_garden:flowers", "--budget", "flops=0.6", "--output", "run", *UNTRACKED)
    said = autoprune.refused(*search, "--searcher", "ap_garden:Drawin")
    assert "has no attribute 'Drawin'; did you mean 'Drawing'" in said
    assert not (garden / "run").exists()


def test_the_criterion_of_a_group_is_ones_own(garden: Path, autoprune: Cli) -> None:
    (garden / "space.yaml").write_text("settings:\n  criterion.2: [l1, 'ap_garden:CUBES']\n")
    search = ("search", "--task", "ap_garden:flowers", "--searcher", "random", "--space", "space.yaml")
    autoprune.succeed(*search, "--budget", "flops=0.6", "--trials", "6", "--output", "run", *UNTRACKED)
    chosen = {trial.candidate.settings["criterion.2"] for trial in read_history(garden / "run").trials() if trial.score}
    assert chosen == {"l1", "ap_garden:CUBES"}


def test_all_three_pass_the_published_contracts(garden: Path) -> None:
    (garden / "test_garden.py").write_text(GARDEN_TESTS)
    program = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_garden.py"]
    done = subprocess.run(program, cwd=garden, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.slow
def test_workers_find_them_too(garden: Path, autoprune: Cli) -> None:
    named = (
        "--task",
        "ap_garden:flowers",
        "--searcher",
        "ap_garden:Drawing",
        "--set",
        "scoring.criterion=ap_garden:CUBES",
    )
    search = ("search", *named, "--budget", "flops=0.6", "--trials", "3", "--output", "run", *UNTRACKED)
    autoprune.succeed(*search, "--workers", "1")
    assert len(read_history(garden / "run").trials()) == 3
