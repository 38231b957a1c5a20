from __future__ import annotations

import time
from pathlib import Path

import pytest

from autoprune.core.ledger import Ledger
from autoprune.core.metrics import LOSS
from autoprune.errors import RunFolderError
from autoprune.reporting.record import best_so_far, read_record, sessions_seconds
from tests.reporting.ledgers import OUTCOMES, WIDTHS, trial, write_run
from tests.scores import scored


def test_a_finished_run_is_told_by_its_ledger_alone(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path / "run"))
    assert (record.name, record.state, len(record.trials)) == ("run", "finished", 5)
    assert record.best is not None
    assert record.best.number == 3
    assert record.best_validation == scored(0.31, 0.89, 200)
    assert record.groups == WIDTHS
    assert record.setting("search.searcher") == "auto"
    assert record.setting("search.nothing", 7) == 7
    assert record.curves is not None
    assert record.curves.levels == {"a": {4: scored(0.2, 0.9, 100)}, "b": {2: scored(0.2, 0.9, 100)}}


def test_evaluations_count_the_dense_reference_the_sweep_and_every_trial(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path / "run"))
    assert record.unit == 100 * 2000 // 2
    assert record.evaluations == 1 + (200_000 + 5 * 50_000) / 100_000


def test_a_run_that_was_killed_shows_its_best_so_far(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path / "run", ended=False))
    assert record.state == "interrupted"
    assert record.best is not None
    assert record.best.number == 3
    assert record.best_validation == scored(0.3, 0.90, 100)
    assert record.dense is not None
    assert record.dense.validation.metrics["accuracy"] == 0.95


def test_a_run_that_is_being_written_goes_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ended=False)
    with Ledger(folder / "ledger.jsonl"):
        assert read_record(folder).state == "going on"
    assert read_record(folder).state == "interrupted"


def test_a_run_without_a_score_has_no_best(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path / "run", OUTCOMES[1:3], ended=False))
    assert (record.best, record.best_validation) == (None, None)


def test_a_damaged_file_of_curves_is_no_matter(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", started={})
    (folder / "sensitivity.json").write_text("{")
    assert read_record(folder).curves is None


@pytest.mark.parametrize("best", ["../../other", 17, None, 3.5])
def test_an_end_that_names_no_trial_is_refused(tmp_path: Path, best: object) -> None:
    folder = write_run(tmp_path / "run", ended=False)
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.write("finished", best=best)
    with pytest.raises(RunFolderError, match="holds no such trial"):
        read_record(folder)


def test_a_folder_that_is_no_run_and_a_damaged_ledger_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nothing is no run of autoprune"):
        read_record(tmp_path / "nothing")
    folder = write_run(tmp_path / "run")
    path = folder / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], '{"event": "to\n', *lines[3:]]))
    with pytest.raises(RunFolderError, match=r"run/ledger.jsonl, line 4 is damaged"):
        read_record(folder)
    path.write_text("".join([*lines, '{"event": "result", "time": 1, "name": "best"}\n']))
    with pytest.raises(RunFolderError, match=r"run: a record .*'validation'"):
        read_record(folder)


def test_a_ledger_that_ends_in_the_middle_of_a_record_is_read_until_there(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ended=False)
    path = folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert len(read_record(folder).trials) == 4


def test_the_time_between_two_sessions_does_not_count() -> None:
    now = time.time()
    records = [("started", 0), ("dense", 3), ("resumed", 1000), ("told", 1004)]
    assert sessions_seconds([{"event": event, "time": now + at} for event, at in records]) == pytest.approx(7)


def test_the_best_so_far_is_a_final_trial_with_a_score() -> None:
    rounds = trial(0, scored(0.01, 0.99, 10), role="intermediate")
    best = best_so_far([rounds, *(trial(i, OUTCOMES[i]) for i in (1, 4, 0, 3))], LOSS)
    assert [each and each.number for each in best] == [None, None, 4, 4, 3]
