"""Loaders with generators of their own, two processes and random transforms: the same seed gives the same scores."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.journeys import OWN, Cli, history_of, search_in_child, trial_results
from tests.running.test_resuming import dying

SEARCH = (*OWN, "--task", "tests.user_tasks:shaken", "--searcher", "random", "--set", "evaluation.samples=32")
SEARCH = (*SEARCH, "--set", "evaluation.recalibrate.samples=32", "--set", "sensitivity.samples=16")
TRAINED = (*SEARCH, "--set", "evaluation.finetune={steps: 3, rate: 0.01}")


@pytest.mark.slow
def test_scores_are_the_same_again_by_workers_of_ray_and_after_a_kill(autoprune: Cli, workdir: Path) -> None:
    for folder, more in (("one", ()), ("other", ()), ("ray", ("--workers", "2", "--cpus-per-trial", "1"))):
        autoprune.succeed(*TRAINED, "--output", folder, *more)
    assert search_in_child(*TRAINED, "--output", "killed", before=dying("told", 2)) == -signal.SIGKILL
    autoprune.succeed("search", "--resume", "killed")
    one, *others = [
        sorted(trial_results(history_of(workdir / name)), key=str) for name in ("one", "other", "ray", "killed")
    ]
    assert len(one) == 3
    assert [each == one for each in others] == [True, True, True]


@pytest.mark.slow
def test_scores_are_the_same_again_and_others_for_another_seed(autoprune: Cli, workdir: Path) -> None:
    for folder, seed in (("one", 0), ("other", 0), ("seed", 1)):
        autoprune.succeed(*SEARCH, "--trials", "1", "--seed", seed, "--output", folder)
    one, other, seed = (trial_results(history_of(workdir / name)) for name in ("one", "other", "seed"))
    assert one == other
    assert one != seed
