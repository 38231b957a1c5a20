"""What a run's folder keeps and what it loses."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.core.ledger import NAME as LEDGER
from autoprune.core.ledger import read_records
from autoprune.errors import RunFolderError, UserError
from autoprune.files import write_whole
from autoprune.running import run_folder as folder
from autoprune.running.run_folder import RunFolder, existing_folder, new_folder
from tests.journeys import left_behind

LEFT = ("best.yaml.part", "sensitivity.png.part", "frontier.csv.part", "shared-4711", "weights/3.pt.part")
LEFT = (*LEFT, "weights/12.training.part", "ray/tune/state.json")
KEPT = ("best.yaml", "ledger.jsonl", "my.part", "shared-notes.txt", "weights/3.pt", "weights/12.training")


def test_a_folder_that_is_tidied_loses_what_killed_processes_left_and_nothing_of_the_users(tmp_path: Path) -> None:
    for name in (*LEFT, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    RunFolder(tmp_path).tidy()
    assert left_behind(tmp_path) == ["best.yaml", "ledger.jsonl", "my.part", "shared-notes.txt", "weights"]
    assert left_behind(tmp_path / "weights") == ["12.training", "3.pt"]
    RunFolder(tmp_path).tidy()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("failing", ["initial.pt", "experiment.yaml"])
def test_a_folder_that_cannot_be_made_whole_is_none_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, failing: str
) -> None:
    def full(path: Path, content: bytes) -> None:
        if path.name == failing:
            raise OSError(28, "No space left on device")
        write_whole(path, content)

    monkeypatch.setattr(folder, "write_whole", full)
    run = tmp_path / "run"
    if there:
        run.mkdir()
        (run / "notes.txt").touch()
    beside = {"schedule.yaml": b"epochs: 1", "initial.pt": b"weights"}
    with pytest.raises(OSError, match="No space left"), RunFolder(run).new_run(run / LEDGER, "task: {}", beside):
        pass
    assert (left_behind(run) == ["notes.txt"]) if there else not run.exists()


def test_the_second_of_two_that_begin_in_one_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.check_new(run.ledger)  # as both do before either begins
    with run.new_run(run.ledger, "first: 1"):
        with pytest.raises(RunFolderError, match="is being written by"), run.new_run(run.ledger, "second: 2"):
            pass
        assert run.experiment.read_text() == "first: 1"
    with pytest.raises(RunFolderError, match="already holds a run"), run.new_run(run.ledger, "third: 3"):
        pass
    assert run.experiment.read_text() == "first: 1"


def begin_and_refuse(run: RunFolder, event: str) -> None:
    with run.new_run(run.ledger, "task: {}") as ledger:
        ledger.write(event)
        run.weights.mkdir()
        raise UserError("no")


@pytest.mark.parametrize("there", [True, False])
def test_what_is_refused_before_anything_was_evaluated_leaves_nothing(tmp_path: Path, there: bool) -> None:
    run = RunFolder(tmp_path / "runs" / "run")
    if there:
        run.path.mkdir(parents=True)
        (run.path / "notes.txt").touch()
    with pytest.raises(UserError):
        begin_and_refuse(run, "started")
    assert (left_behind(run.path) == ["notes.txt"]) if there else left_behind(tmp_path) == []


def test_what_was_evaluated_before_a_refusal_is_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError):
        begin_and_refuse(run, "level")
    assert run.experiment.exists()
    assert read_records(run.ledger)


def test_folders_named_in_the_same_second_differ() -> None:
    assert len({new_folder(None, "digits").path for _ in range(5)}) == 5


def test_a_run_of_another_kind_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "experiment.yaml").touch()
    (tmp_path / "training.jsonl").touch()
    assert existing_folder(tmp_path, "training.jsonl").path == tmp_path
    with pytest.raises(RunFolderError, match="it has no ledger"):
        existing_folder(tmp_path, "ledger.jsonl")
