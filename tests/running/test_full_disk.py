"""A disk that is full ends a run with a message; with room again the run goes on."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune.core.ledger import Ledger
from autoprune.reporting.results import results_in
from tests.journeys import SEARCH, Cli, DigitsRun, history_of, left_behind, search_in_child, trial_results
from tests.running.test_iterative_searches import SHORT
from tests.running.test_killed import often_saving
from tests.tiers import rest_slow


def limited(size: int) -> Callable[[], None]:
    """Lets a process write no file beyond so many bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def limited_after(event: str, size: int) -> Callable[[], None]:
    """The same, from a record of the ledger on."""

    def patch() -> None:
        write = Ledger.write

        def write_and_limit(self: Ledger, name: str, /, **fields: Any) -> None:
            write(self, name, **fields)
            if name == event:
                limited(size)()

        Ledger.write = write_and_limit  # type: ignore[method-assign]

    return patch


def limited_while_writing(name: str) -> Callable[[], None]:
    """Has no room for one file beyond its first bytes; trainings leave a snapshot after every step.

    The limit is for that file alone, as what is said goes into a file here too.
    """

    def patch() -> None:
        often_saving()
        write = Path.write_bytes

        def limit_and_write(self: Path, content: bytes | memoryview) -> int:
            if self.name != f"{name}.part":
                return write(self, content)
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
            try:
                return write(self, content)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

        Path.write_bytes = limit_and_write  # type: ignore[method-assign, assignment]

    return patch


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (limited(1500), "the ledger run/ledger.jsonl could not be written"),
        (limited_after("told", 20_000), "disk is full"),  # the second trial's weights
        (limited_after("dense", 10_000), "disk is full"),  # a plot
        (limited_after("reevaluated", 20_000), "disk is full"),  # the last plot
    ],
    ids=["ledger", "weights", "sensitivity plot", "frontier plot"],
)
def test_a_full_disk_ends_a_search_that_can_be_resumed(
    autoprune: Cli, workdir: Path, capfd: pytest.CaptureFixture[str], before: Callable[[], None], expected: str
) -> None:
    assert search_in_child(*SEARCH, "--output", "run", before=before) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert expected in said
    assert "--resume run" in said
    assert not list(workdir.glob("run/**/*.part"))
    told = len(history_of(workdir / "run").of("told"))
    autoprune.succeed("search", "--resume", "run")
    history = history_of(workdir / "run")
    assert [number for number, _, _ in trial_results(history)] == [0, 1, 2, 3]
    assert len(history.of("told")) == 4 >= told
    assert [result.name for result in results_in(history)] == ["dense", "uniform", "best"]
    for name in ("best.yaml", "frontier.png", "sensitivity.png", "sensitivity.json"):
        assert (workdir / "run" / name).stat().st_size > 100


TRAINED = (*SHORT, "--searcher", "autocompress", "--set", "search.rerank={steps: 2, batch_size: 16}")


@pytest.mark.parametrize(
    "name",
    [
        "3.training",
        "best.yaml",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("sensitivity.json", "3.pt", "12.training", "frontier.csv", "results.csv")
        ),
    ],
)
@pytest.mark.usefixtures("without_latencies")
def test_a_disk_that_is_full_when_a_file_is_written_loses_nothing_of_what_came_before(
    autoprune: Cli, workdir: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert search_in_child(*TRAINED, "--output", "run", before=limited_while_writing(name)) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "disk is full" in said
    assert "--resume run" in said
    run = workdir / "run"
    before = (run / "ledger.jsonl").read_bytes()
    assert not list(run.rglob("*.part"))
    autoprune.succeed("search", "--resume", "run")
    assert (run / "ledger.jsonl").read_bytes().startswith(before)
    told = [record["number"] for record in history_of(run).of("told")]
    assert told == list(range(13))
    assert left_behind(run / "weights") == ["11.pt", "12.pt"]
    assert (run / "best.yaml").stat().st_size > 100


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert search_in_child(*SEARCH, "--output", "run", before=limited(100)) == 1
    said = capfd.readouterr().err
    assert "the disk is full" in said
    assert "--resume" not in said
    assert not (workdir / "run").exists()


@pytest.mark.parametrize("export", rest_slow([[], ["--export", "pt2"], ["--export", "onnx"]]))
def test_a_full_disk_while_a_network_is_written_leaves_no_half_of_it(
    workdir: Path, digits_run: DigitsRun, capfd: pytest.CaptureFixture[str], export: list[str]
) -> None:
    size = max(path.stat().st_size for path in (digits_run.folder / "weights").iterdir())
    limit = limited(size + 2000 if export else 10_000)
    arguments = ("apply", digits_run.folder, "--output", "pruned.pt", *export)
    assert search_in_child(*arguments, before=limit) == 1
    said = capfd.readouterr().err
    assert "disk is full" in said
    assert "Traceback" not in said
    assert [path.name for path in workdir.iterdir()] == (["pruned.pt"] if export else [])
