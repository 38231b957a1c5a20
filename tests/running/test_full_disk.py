"""A disk that is full ends a run with a message; with room again the run goes on."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune.core.ledger import Ledger
from autoprune.reporting.results import results_in
from tests.journeys import SEARCH, Cli, DigitsRun, history_of, judgements, search_in_child


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


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (limited(1500), "the ledger run/ledger.jsonl could not be written"),
        (limited_after("told", 20_000), "disk is full"),  # the second trial's weights
        (limited_after("dense", 10_000), "disk is full"),  # a plot
        (limited_after("judged", 20_000), "disk is full"),  # the last plot
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
    assert [number for number, _, _ in judgements(history)] == [0, 1, 2, 3]
    assert len(history.of("told")) == 4 >= told
    assert [result.name for result in results_in(history)] == ["dense", "uniform", "best"]
    for name in ("best.yaml", "frontier.png", "sensitivity.png", "sensitivity.json"):
        assert (workdir / "run" / name).stat().st_size > 100


def test_a_disk_that_is_full_from_the_start_leaves_no_folder(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert search_in_child(*SEARCH, "--output", "run", before=limited(100)) == 1
    said = capfd.readouterr().err
    assert "the disk is full" in said
    assert "--resume" not in said
    assert not (workdir / "run").exists()


@pytest.mark.parametrize("export", [[], ["--export", "pt2"], ["--export", "onnx"]])
def test_a_full_disk_while_a_network_is_written_leaves_no_half_of_it(
    workdir: Path, digits_run: DigitsRun, capfd: pytest.CaptureFixture[str], export: list[str]
) -> None:
    size = (digits_run.folder / "weights" / "1.pt").stat().st_size
    limit = limited(size + 2000 if export else 10_000)
    arguments = ("apply", digits_run.folder, "--output", "pruned.pt", *export)
    assert search_in_child(*arguments, before=limit) == 1
    said = capfd.readouterr().err
    assert "disk is full" in said
    assert "Traceback" not in said
    assert [path.name for path in workdir.iterdir()] == (["pruned.pt"] if export else [])
