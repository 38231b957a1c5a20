from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from autoprune.reporting.comparison import comparison_json, nni_fields, nni_json, run_fields
from autoprune.reporting.record import read_record
from tests.reporting.ledgers import OUTCOMES, TRAINED, write_run


def test_the_layout_of_nni_holds_what_is_known_on_the_same_samples(tmp_path: Path) -> None:
    finished = nni_fields(read_record(write_run(tmp_path / "run")))
    assert finished == {
        "performance": {"original": 0.94, "pruned": 0.88, "speedup": 0.88},
        "params": {"original": 400, "speedup": 197},
        "flops": {"original": 2000, "speedup": 997},
    }
    without_test = nni_fields(read_record(write_run(tmp_path / "validation", test=False)))
    assert without_test["performance"] == {"original": 0.95, "pruned": 0.89, "speedup": 0.89}


def test_the_layout_of_nni_invents_nothing(tmp_path: Path) -> None:
    nothing = read_record(write_run(tmp_path / "none", (), ended=False))
    assert nni_fields(nothing) == {
        "performance": {"original": 0.95}, "params": {"original": 400}, "flops": {"original": 2000}
    }  # fmt: skip
    trained = read_record(write_run(tmp_path / "trained", recipe=TRAINED))
    assert nni_fields(trained)["performance"] == {"original": 0.94, "finetuned": 0.88}
    zeros = replace(trained, started={**trained.started, "params": {"costs": "effective"}})
    assert "speedup" not in nni_fields(zeros)["params"]
    assert json.loads(nni_json(nothing)) == nni_fields(nothing)


def test_json_holds_every_run_with_its_comparison(tmp_path: Path) -> None:
    records = [read_record(write_run(tmp_path / name)) for name in ("one", "two")]
    one, two = json.loads(comparison_json(records))["runs"]
    assert (one["run"], two["run"]) == ("one", "two")
    assert one["widths"] == {"a": 5, "b": 2}
    assert one["dense_widths"] == {"a": 8, "b": 4}
    assert one["trials"] == {"told": 5, "scored": 3, "failed": 1, "running": 0}
    assert one["frontier"] == [4, 3] or one["frontier"] == [3, 4]
    assert one["comparison"] == nni_fields(records[0])


def test_of_a_run_that_was_killed_what_is_known_is_said(tmp_path: Path) -> None:
    fields = run_fields(read_record(write_run(tmp_path / "killed", OUTCOMES[:2], ended=False)))
    assert (fields["progress"], fields["best"], fields["loss"]) == ("2 of 5 trials", 0, 0.5)
    assert "test" not in fields
