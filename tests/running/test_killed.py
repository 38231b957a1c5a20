"""SIGKILL at random moments, `--resume`: nothing that was written is lost or done again, and the end is the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.core.trial import Candidate, Trial
from autoprune.evaluation.data import EvaluationConfig
from autoprune.evaluation.evaluator import Evaluator
from autoprune.reporting.results import results_in
from autoprune.running.setup import Setup
from tests.journeys import (
    SEARCH,
    Cli,
    has_ended,
    history_of,
    left_behind,
    search_in_child,
    trial_results,
    unbroken_runs,
)
from tests.tiers import rest_slow

pytestmark = pytest.mark.usefixtures("without_latencies")

SEED = int(os.environ.get("AUTOPRUNE_TEST_SEED", "0"))
"""Chooses other moments."""
SMALL = (*SEARCH, "--trials", "6", "--set", "evaluation.recalibrate.samples=100")
ROUNDS = ("--set", "search.rounds={count: 2, probes: 2, finetune: {steps: 5, batch_size: 32}}")
ROUNDS = (*SMALL, *ROUNDS, "--set", "search.rounds.admm={steps: 5, batch_size: 32}")
COMMANDS = {
    "evolution": (*SMALL, "--set", "search.rerank={top: 2, steps: 5, batch_size: 32}"),
    "annealing": SMALL,
    "tpe": SMALL,
    "netadapt": ROUNDS,
    "autocompress": ROUNDS,
}
MOMENTS = rest_slow(range(12))


@dataclass(frozen=True)
class Moment:
    """A time in a run: so long after a record was written.

    Attributes:
        record: counts from 1.
        delay: in seconds.
    """

    record: int
    delay: float
    event: str

    def __str__(self) -> str:
        return f"SIGKILL {self.delay:.4f} s after record {self.record} ({self.event}); AUTOPRUNE_TEST_SEED={SEED}"

    def wait(self, ledger: Path, child: int) -> None:
        """Waits for the moment, or for the end of the process."""
        while not has_ended(child) and lines(ledger) < self.record:
            time.sleep(0.001)
        time.sleep(self.delay)


def lines(ledger: Path) -> int:
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def moment_in(run: Path, searcher: str, number: int) -> Moment:
    """A moment of an unbroken run: between any two records, at any time between them."""
    records = history_of(run).records
    draw = random.Random(f"{SEED} {searcher} {number}")
    place = draw.randrange(len(records) - 1)
    gap = records[place + 1]["time"] - records[place]["time"]
    return Moment(place + 1, gap * draw.random(), records[place]["event"])


@contextmanager
def noted(moment: Moment) -> Iterator[None]:
    """Says in every failure inside when the run was killed."""
    try:
        yield
    except BaseException as failure:
        failure.add_note(str(moment))
        raise


def often_saving() -> None:
    """Trainings leave a snapshot after every step."""
    evaluation_config = Setup.evaluation_config

    def saving(self: Setup) -> EvaluationConfig:
        return replace(evaluation_config(self), snapshot_seconds=0.0)

    Setup.evaluation_config = saving  # type: ignore[method-assign]


def killed(command: tuple[str, ...], run: Path, moment: Moment) -> None:
    """Runs a command and kills its process at a moment."""

    def kill(child: int) -> None:
        moment.wait(run / "ledger.jsonl", child)
        os.kill(child, signal.SIGKILL)

    if search_in_child(*command, "--output", run, before=often_saving, meanwhile=kill) == 0:
        shutil.rmtree(run)  # today it was faster than the run that the moment was taken from
        killed(command, run, replace(moment, delay=moment.delay / 4))


@pytest.fixture(scope="module")
def unbroken(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an unbroken run by searcher."""
    return unbroken_runs(tmp_path_factory, COMMANDS.__getitem__)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the candidates that this process evaluates."""
    numbers: list[int] = []
    evaluate = Evaluator.evaluate

    def noting(self: Evaluator, candidate: Candidate, keep: bool = True) -> Trial:
        numbers.append(candidate.number)
        return evaluate(self, candidate, keep)

    monkeypatch.setattr(Evaluator, "evaluate", noting)
    return numbers


def timeless(run: Path, event: str) -> list[dict[str, Any]]:
    """The records of one kind without what a clock says."""
    clocks = ("time", "seconds", "latency_ms")
    return [{key: kept for key, kept in record.items() if key not in clocks} for record in history_of(run).of(event)]


def check_end(run: Path, whole: Path) -> None:
    """The same records, files and weights as those of an unbroken run."""
    assert trial_results(history_of(run)) == trial_results(history_of(whole))
    for event in ("dense", "level", "asked", "told", "reevaluated"):
        assert timeless(run, event) == timeless(whole, event)
    assert results_in(history_of(run)) == results_in(history_of(whole))
    assert left_behind(run) == left_behind(whole)
    for name in {"best.yaml", "frontier.csv", "results.csv", "sensitivity.json"} & set(left_behind(whole)):
        assert (run / name).read_text() == (whole / name).read_text(), name
    assert left_behind(run / "weights") == left_behind(whole / "weights")
    for path in (run / "weights").iterdir():
        here, there = (torch.load(place, weights_only=True) for place in (path, whole / "weights" / path.name))
        assert all(torch.equal(tensor, there["state_dict"][name]) for name, tensor in here["state_dict"].items())


@pytest.mark.parametrize("number", MOMENTS)
@pytest.mark.parametrize("searcher", rest_slow(COMMANDS))
def test_a_search_killed_at_a_random_moment_ends_as_if_it_had_not_been(
    autoprune: Cli, workdir: Path, unbroken: Callable[[str], Path], evaluated: list[int], searcher: str, number: int
) -> None:
    whole, run = unbroken(searcher), workdir / "run"
    moment = moment_in(whole, searcher, number)
    with noted(moment):
        killed((*COMMANDS[searcher], "--searcher", searcher), run, moment)
        before = (run / "ledger.jsonl").read_bytes()
        before = before[: before.rfind(b"\n") + 1]
        told = {record["number"] for record in map(json.loads, before.splitlines()) if record["event"] == "told"}
        autoprune.succeed("search", "--resume", "run")
        assert (run / "ledger.jsonl").read_bytes().startswith(before)
        assert told.isdisjoint(evaluated)
        assert len(set(evaluated)) == len(evaluated)
        check_end(run, whole)
