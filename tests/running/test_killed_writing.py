"""SIGKILL while a file is half written: what was there before stays, and the resumed run leaves nothing half."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from autoprune.core.ledger import Ledger
from autoprune.core.trial import Trial
from tests.journeys import Cli, history_of, left_behind, search_in_child, trial_results
from tests.running.test_iterative_searches import SHORT
from tests.running.test_killed import often_saving

pytestmark = pytest.mark.usefixtures("without_latencies", "drawn")

RUN = (*SHORT, "--searcher", "autocompress", "--set", "search.rerank={steps: 2, batch_size: 16}")


def dying_while_writing(name: str) -> Callable[[], None]:
    """Makes a process kill itself when half of a file is on the disk; trainings leave a snapshot after every step."""

    def patch() -> None:
        often_saving()
        write = Path.write_bytes

        def write_half_and_die(self: Path, content: bytes | memoryview) -> int:
            if self.name != f"{name}.part":
                return write(self, content)
            write(self, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        Path.write_bytes = write_half_and_die  # type: ignore[method-assign, assignment]

    return patch


@pytest.fixture(scope="module")
def whole(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert search_in_child(*RUN, "--output", folder) == 0
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "3.training",  # of the first candidate that trains
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "3.pt",
                "frontier.png",
                "sensitivity.json",
                "sensitivity.png",
                "12.training",
                "frontier.csv",
                "results.csv",
                "best.yaml",
            )
        ),
    ],
)
def test_a_file_half_written_by_a_killed_run_is_whole_in_the_end(
    autoprune: Cli, workdir: Path, whole: Path, name: str
) -> None:
    assert search_in_child(*RUN, "--output", "run", before=dying_while_writing(name)) == -signal.SIGKILL
    run = workdir / "run"
    (half,) = run.rglob("*.part")
    assert half.name == f"{name}.part"
    autoprune.succeed("search", "--resume", "run")
    assert trial_results(history_of(run)) == trial_results(history_of(whole))
    assert left_behind(run) == left_behind(whole)
    assert left_behind(run / "weights") == left_behind(whole / "weights")
    assert (run / "best.yaml").read_text() == (whole / "best.yaml").read_text()
    for picture in ("frontier.png", "sensitivity.png"):
        assert (run / picture).read_bytes().endswith(b"IEND\xaeB`\x82")


def dying_when_told(number: int) -> Callable[[], None]:
    """Makes a process kill itself right after a trial was written down."""

    def patch() -> None:
        told = Ledger.told

        def tell_and_die(self: Ledger, trial: Trial) -> None:
            told(self, trial)
            if trial.number == number:
                os.kill(os.getpid(), signal.SIGKILL)

        Ledger.told = tell_and_die  # type: ignore[method-assign]

    return patch


@pytest.mark.slow
def test_weights_that_a_killed_run_had_yet_to_drop_are_dropped(autoprune: Cli, workdir: Path, whole: Path) -> None:
    assert search_in_child(*RUN, "--output", "run", before=dying_when_told(11)) == -signal.SIGKILL
    kept = left_behind(workdir / "run" / "weights")
    autoprune.succeed("search", "--resume", "run")
    after = left_behind(workdir / "run" / "weights")
    assert set(kept) - set(after)
    assert after == left_behind(whole / "weights")
