"""How a session begins, what it refuses, and what it takes from the ledger."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from autoprune.running.search import session
from tests import user_tasks
from tests.journeys import OWN, Cli, history_of, left_behind, search_in_child, trial_results
from tests.running.test_resuming import dying

RUN = (*OWN, "--task", "tests.user_tasks:faulty", "--searcher", "random", "--output", "run")

pytestmark = pytest.mark.usefixtures("without_latencies")


def change(key: str, value: Any) -> None:
    """Edits the run's `experiment.yaml`."""
    path = Path("run/experiment.yaml")
    settings = inner = yaml.safe_load(path.read_text())
    *sections, last = key.split(".")
    for section in sections:
        inner = inner[section]
    assert inner[last] != value
    inner[last] = value
    path.write_text(yaml.safe_dump(settings))


def test_of_two_searches_that_begin_in_one_folder_the_refused_one_changes_nothing(workdir: Path) -> None:
    codes: list[int] = []

    def start_another(_: int) -> None:
        codes.append(search_in_child(*RUN, "--seed", "2"))

    codes.append(search_in_child(*RUN, "--seed", "1", meanwhile=start_another))
    assert sorted(codes) == [0, 2]
    winner = 1 if codes[1] == 0 else 2
    assert yaml.safe_load(Path("run/experiment.yaml").read_text())["search"]["seed"] == winner
    assert history_of(Path("run")).last("started")["settings"]["search"]["seed"] == winner


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluation.samples", 40),
        ("search.seed", 7),
        ("search.searcher", "tpe"),
        ("search.evaluations", 90),
        ("budget", "flops=0.5"),
        ("pruner", "l2_filter"),
        ("space.min_keep", 0.2),
        ("evaluation.recalibrate.samples", 16),
        ("sensitivity.levels", 3),
    ],
)
def test_a_run_is_not_resumed_under_other_settings(autoprune: Cli, workdir: Path, key: str, value: Any) -> None:
    autoprune.succeed(*RUN)
    before = Path("run/ledger.jsonl").read_bytes()
    change(key, value)
    said = autoprune.refused("search", "--resume", "run")
    assert "run/experiment.yaml has other settings than the run was started with" in said
    assert f"{key}: {value!r} instead of " in said
    assert Path("run/ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(("key", "value"), [("run.retries", 0), ("track.experiment", "other"), ("run.threads", 2)])
def test_where_it_runs_and_is_tracked_may_differ(autoprune: Cli, workdir: Path, key: str, value: Any) -> None:
    assert search_in_child(*RUN) == 0
    change(key, value)
    autoprune.succeed("search", "--resume", "run")


def test_a_finished_run_goes_on_where_more_trials_are_asked_for(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    change("search.trials", 5)
    autoprune.succeed("search", "--resume", "run")
    more = trial_results(history_of(Path("run")))
    autoprune.succeed(*RUN[:-1], "whole", "--trials", "5")
    assert more == trial_results(history_of(Path("whole")))


def test_a_finished_run_needs_no_searcher_to_be_shown_again(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = autoprune.succeed(*RUN)
    best = Path("run/best.yaml").read_text()
    Path("run/best.yaml").unlink()
    monkeypatch.setattr(session, "search", None)
    assert autoprune.succeed("search", "--resume", "run").out == first.out
    assert Path("run/best.yaml").read_text() == best


def test_an_extended_run_that_was_killed_is_not_the_one_that_had_finished(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    change("search.trials", 5)
    assert search_in_child("search", "--resume", "run", before=dying("told", 1)) == -signal.SIGKILL
    autoprune.succeed("search", "--resume", "run")
    assert len(history_of(Path("run")).trials()) == 5


def test_resuming_a_finished_run_of_1500_trials_reads_its_ledger_alone(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    autoprune.succeed(*RUN)
    ledger = Path("run/ledger.jsonl")
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    place = 1 + max(at for at, record in enumerate(records) if record["event"] == "told")
    asked, told = (next(r for r in records if r["event"] == event) for event in ("asked", "told"))
    more = [{**record, "number": number} for number in range(3, 1500) for record in (asked, told)]
    lines = (json.dumps(record) + "\n" for record in [*records[:place], *more, *records[place:]])
    ledger.write_text("".join(lines))
    change("search.trials", 1500)
    ledger.write_text(ledger.read_text().replace('"trials": 3', '"trials": 1500'))
    for name in ("_ready", "_dense", "_execute"):
        monkeypatch.setattr(session, name, None)
    begun = time.process_time()
    assert "1500 trials" in autoprune.succeed("search", "--resume", "run").out
    assert time.process_time() - begun < 5


def _out_of_range(*_: object) -> torch.Tensor:
    raise IndexError("Target 9 is out of bounds.")


@pytest.mark.parametrize(
    "fault",
    [
        _out_of_range,
        lambda _, loss: loss * float("nan"),
        lambda _, loss: torch.stack([loss, loss]),
        lambda _, loss: {"loss": loss},
    ],
    ids=["labels out of range", "nan", "vector", "dictionary"],
)
def test_a_dense_network_that_cannot_be_evaluated_leaves_nothing(
    autoprune: Cli, workdir: Path, fault: user_tasks.Fault
) -> None:
    user_tasks.faults.append(fault)
    assert "the dense network cannot be evaluated" in autoprune.refused(*RUN, "--set", "track.enabled=true")
    assert left_behind(workdir) == []


@pytest.mark.slow
def test_workers_that_there_are_not_leave_nothing(autoprune: Cli, workdir: Path) -> None:
    assert "9999 workers" in autoprune.refused(*RUN, "--workers", "9999")
    assert left_behind(workdir) == []
