"""What a run's folder keeps and what it loses."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.files import write_whole
from autoprune.running import run_folder as folder
from autoprune.running.run_folder import RunFolder
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
    with pytest.raises(OSError, match="No space left"):
        RunFolder(run).create("task: {}", {"schedule.yaml": b"epochs: 1", "initial.pt": b"weights"})
    assert not (run / "experiment.yaml").exists()
    assert (run / "notes.txt").exists() if there else not run.exists()
