"""The levels of a run's sweep in its ledger."""

from __future__ import annotations

import json
from pathlib import Path

from autoprune.core.sensitivity import SensitivityCurves, curves_from_json
from tests.journeys import SEARCH, Cli, history_of, trial_results


def curves_of(run: Path) -> SensitivityCurves:
    (curves,) = curves_from_json(json.loads((run / "sensitivity.json").read_text()), "the run's file")
    return curves


def test_every_level_says_what_it_cost(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*SEARCH, "--output", "run")
    works = [record["work"] for record in history_of(workdir / "run").of("level")]
    assert all(isinstance(work, int) and work > 0 for work in works)
    curves = curves_of(workdir / "run")
    assert sum(works) == curves.work
    assert curves.naive_work is not None
    assert sum(works) < curves.naive_work


def test_a_ledger_whose_levels_do_not_say_what_they_cost_is_gone_on_with(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*SEARCH, "--output", "run")
    before, curves = trial_results(history_of(workdir / "run")), curves_of(workdir / "run")
    ledger = workdir / "run" / "ledger.jsonl"
    records = [json.loads(line) for line in ledger.read_text().splitlines()]
    for record in records:
        record.pop("work", None)
    ledger.write_text("".join(f"{json.dumps(record)}\n" for record in records[:-4]))
    autoprune.succeed("search", "--resume", "run")
    assert trial_results(history_of(workdir / "run")) == before
    resumed = curves_of(workdir / "run")
    assert resumed.levels == curves.levels
    assert resumed.work == resumed.naive_work == curves.naive_work  # all levels, each judged by itself
