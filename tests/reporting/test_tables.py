from __future__ import annotations

import csv
import io
from pathlib import Path

from autoprune.reporting.record import read_record
from autoprune.reporting.tables import cells, compared, mixture, trials_csv
from tests.reporting.ledgers import IDENTITY, OUTCOMES, write_run


def test_csv_has_a_line_for_every_trial_of_every_run(tmp_path: Path) -> None:
    unfinished = write_run(tmp_path / "two", OUTCOMES[:1], ended=False)
    records = [read_record(write_run(tmp_path / "one")), read_record(unfinished)]
    rows = list(csv.DictReader(io.StringIO(trials_csv(records))))
    assert [(row["run"], row["trial"]) for row in rows] == [*(("one", str(i)) for i in range(5)), ("two", "0")]
    assert [row["state"] for row in rows[:5]] == ["scored", "dropped", "failed", "scored", "scored"]
    assert (rows[3]["flops"], rows[3]["flops_kept"], rows[3]["keep.a"]) == ("997", "0.4985", "5")
    assert (rows[1]["accuracy"], rows[1]["samples"]) == ("0.6", "10")
    assert (rows[2]["accuracy"], rows[2]["failure"]) == ("", "nan: the loss is not finite")


def test_a_summary_says_how_far_a_run_has_come(tmp_path: Path) -> None:
    killed = read_record(write_run(tmp_path / "killed", OUTCOMES[:2], ended=False))
    assert cells(killed)["state"] == "interrupted, 2 of 5 trials"
    assert (cells(killed)["loss"], cells(killed)["test accuracy"]) == ("0.5000", "")
    nothing = read_record(write_run(tmp_path / "nothing", (), ended=False))
    assert cells(nothing)["state"] == "interrupted, 0 of 5 trials"
    assert cells(nothing)["accuracy"] == ""


def test_runs_of_different_tasks_are_compared_with_a_word_of_caution(tmp_path: Path) -> None:
    one = read_record(write_run(tmp_path / "one"))
    other = read_record(write_run(tmp_path / "other", identity={**IDENTITY, "task": "cifar10"}))
    assert mixture([one, one]) is None
    note = mixture([one, other])
    assert note is not None
    assert "different tasks" in note
    headings, rows, same = compared([one, other])
    assert same == "pruner l1_filter, budget flops=0.5"
    assert (headings[:4], len(rows)) == (["run", "state", "searcher", "task"], 2)
