"""The same search, evaluated by Ray's workers; what goes wrong with them costs a trial at most its tries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from autoprune.core.trial import Failure
from tests import accidents
from tests.journeys import OWN, Cli, history_of, trial_results
from tests.repository import REPOSITORY

CANDIDATES = ("--trials", "12", "--searcher", "random", "--set", "space.protect=[]")
ACCIDENTAL = (*OWN, *CANDIDATES, "--task", "tests.accidents:task", "--output", "run")
VARYING = ("time", "latency_ms")
TWO = ("--workers", "2", "--cpus-per-trial", "1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A Ray with four processors; the folder of the accidents that happen to its workers."""
    folder = tmp_path_factory.mktemp("accidents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(accidents.FOLDER, str(folder))
        patch.setenv(accidents.DRIVER, str(os.getpid()))
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
        yield folder
        ray.shutdown()


def happen(folder: Path, kind: str, count: int) -> None:
    for number in range(count):
        (folder / f"{kind}-{number}").touch()


@pytest.fixture(autouse=True)
def _no_accident_left(cluster: Path) -> Iterator[None]:
    yield
    for left in cluster.iterdir():
        left.unlink()


def failures(folder: Path) -> list[Failure]:
    return [trial.outcome for trial in history_of(folder).trials() if isinstance(trial.outcome, Failure)]


def test_one_worker_evaluates_the_same_trials_in_the_same_order(autoprune: Cli, workdir: Path) -> None:
    task = ("--task", "tests.user_tasks:task", "--searcher", "evolution", "--trials", "8")
    task = (*task, "--set", "evaluation.samples=32")
    autoprune.succeed(*OWN, *task, "--output", "here")
    autoprune.succeed(*OWN, *task, "--output", "there", "--workers", "1")
    here, there = history_of(workdir / "here"), history_of(workdir / "there")
    assert trial_results(here) == trial_results(there)
    assert {trial.worker for trial in here.trials()} == {"inline"}
    assert {trial.worker for trial in there.trials()}.isdisjoint({"inline", "ray"})
    assert not (workdir / "there" / "ray").exists()
    for event in ("level", "reevaluated", "result"):
        assert without_times(here.of(event)) == without_times(there.of(event))


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In an order of their own."""
    kept = [{name: value for name, value in record.items() if name not in VARYING} for record in records]
    return sorted(kept, key=str)


@pytest.mark.slow
def test_the_rest_of_a_sweep_is_shared_out_and_a_worker_that_dies_in_it_costs_nothing(
    autoprune: Cli, workdir: Path, cluster: Path
) -> None:
    sweeping = (*OWN, "--task", "tests.accidents:task", "--searcher", "knapsack", "--set", "sensitivity.levels=4")
    autoprune.succeed(*sweeping, "--output", "run")
    ledger, curves = workdir / "run" / "ledger.jsonl", (workdir / "run" / "sensitivity.json").read_bytes()
    levels = history_of(workdir / "run").of("level")
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[: 1 + [i for i, line in enumerate(lines) if '"level"' in line][2]]))
    happen(cluster, "death", 1)
    autoprune.succeed("search", "--resume", "run", *TWO)
    assert not list(cluster.iterdir())
    assert without_times(history_of(workdir / "run").of("level")) == without_times(levels)
    assert (workdir / "run" / "sensitivity.json").read_bytes() == curves


@pytest.mark.slow
def test_several_workers_evaluate_at_once_and_what_they_wrote_can_be_applied(
    autoprune: Cli, workdir: Path, cluster: Path
) -> None:
    happen(cluster, "company", 2)
    reranked = ("--set", "search.rerank={top: 3, steps: 2, rate: 0.02}")
    autoprune.succeed(*ACCIDENTAL, *TWO, *reranked)
    trials = history_of(workdir / "run").trials()
    assert sorted(trial.number for trial in trials) == list(range(15))
    finalists = sorted(trial.number for trial in trials if trial.candidate.role == "finalist")
    assert finalists == list(range(12, 15)), "in whatever order the workers were done with them"
    assert len({trial.worker for trial in trials}) == 2, "the search's workers do the finalists, too"
    autoprune.succeed("apply", "run", "--output", "pruned.pt")


@pytest.mark.slow
def test_a_worker_that_dies_costs_a_try_and_no_trial(autoprune: Cli, workdir: Path, cluster: Path) -> None:
    happen(cluster, "death", 1)
    autoprune.succeed(*ACCIDENTAL, *TWO, "--retries", "1")
    assert len(history_of(workdir / "run").trials()) == 12
    assert not failures(workdir / "run")
    assert not list(cluster.iterdir())


@pytest.mark.slow
def test_a_trial_whose_workers_always_die_fails_and_the_search_goes_on(
    autoprune: Cli, workdir: Path, cluster: Path
) -> None:
    happen(cluster, "death", 2)
    autoprune.succeed(*ACCIDENTAL, "--workers", "1", "--retries", "1")
    (failure,) = failures(workdir / "run")
    assert failure.kind == "worker_died"
    assert "2 times" in failure.reason


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_the_trial_tried_again(autoprune: Cli, workdir: Path, cluster: Path) -> None:
    happen(cluster, "hang", 1)
    autoprune.succeed(*ACCIDENTAL, *TWO, "--retries", "1", "--trial-timeout", "5")
    assert len(history_of(workdir / "run").trials()) == 12
    assert not failures(workdir / "run")


@pytest.mark.slow
def test_a_trial_that_always_hangs_is_a_timeout(autoprune: Cli, workdir: Path, cluster: Path) -> None:
    happen(cluster, "hang", 1)
    autoprune.succeed(*ACCIDENTAL, "--workers", "1", "--retries", "0", "--trial-timeout", "4")
    (failure,) = failures(workdir / "run")
    assert failure.kind == "timeout"
    assert "longer than 4 s" in failure.reason


@pytest.mark.slow
def test_memory_that_runs_out_once_costs_a_try(autoprune: Cli, workdir: Path, cluster: Path) -> None:
    happen(cluster, "memory", 1)
    autoprune.succeed(*ACCIDENTAL, *TWO)
    assert not failures(workdir / "run")


@pytest.mark.slow
def test_a_worker_s_full_disk_stops_the_run_which_can_be_resumed(autoprune: Cli, workdir: Path, cluster: Path) -> None:
    happen(cluster, "full", 1)
    said = autoprune.refused(*ACCIDENTAL, "--workers", "1", code=1)
    assert "disk is full" in said
    assert "--resume run" in said
    autoprune.succeed("search", "--resume", "run", "--workers", "2")
    assert sorted(trial.number for trial in history_of(workdir / "run").trials()) == list(range(12))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--workers", "5"), "5 workers with 1 CPUs each need 5 CPUs, but Ray has 4"),
        (("--workers", "1", "--gpus-per-trial", "0.5"), "need 0.5 GPUs, but Ray has 0"),
        (("--workers", "1", "--cpus-per-trial", "1.5"), "--cpus-per-trial above 1 should be a whole number"),
        (("--workers", "two"), "run.workers"),
        (("--workers", "-1"), "run.workers"),
        (("--retries", "-1"), "run.retries"),
        (("--trial-timeout", "0"), "run.trial_timeout"),
    ],
)
def test_what_can_never_be_had_is_refused(autoprune: Cli, workdir: Path, options: tuple[str, ...], said: str) -> None:
    assert said in autoprune.refused(*ACCIDENTAL, *options)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--ray-address", "head:6379"), 2, "no Ray cluster answers at 'head:6379' (too slow); start one"),
        ((), 1, "Ray did not start (too slow); try again when the machine has less to do"),
    ],
)
def test_a_ray_that_cannot_be_had_is_said_in_one_line(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, said: str
) -> None:
    def init(*_: Any, **__: Any) -> None:
        raise Exception("too slow")  # as ray does

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert autoprune.refused(*ACCIDENTAL, *TWO, *options, code=code).startswith(said)
