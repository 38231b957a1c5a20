"""The frontier that a run leaves."""

from __future__ import annotations

import csv
from pathlib import Path

from autoprune.core.metrics import LOSS
from autoprune.reporting.frontier import frontier
from tests.journeys import SEARCH, Cli, DigitsRun, history_of


def rows_in(run: Path) -> list[dict[str, str]]:
    with open(run / "frontier.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_search_leaves_its_frontier(digits_run: DigitsRun) -> None:
    found = frontier(history_of(digits_run.folder).trials(), LOSS, ["flops"])
    rows = rows_in(digits_run.folder)
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in found]
    assert [int(row["flops"]) for row in rows] == [trial.costs["flops"] for trial in found]
    assert (digits_run.folder / "frontier.png").is_file()


def test_any_point_of_a_frontier_can_be_applied(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*SEARCH, "--searcher", "nsga2", "--trials", "12", "--output", "run")
    rows = rows_in(workdir / "run")
    dropped = [row for row in rows if not (workdir / "run" / "weights" / f"{row['trial']}.pt").is_file()]
    assert dropped
    for row in (dropped[0], rows[-1]):
        out = autoprune.succeed("apply", "run", "--trial", row["trial"], "--output", f"{row['trial']}.pt").out
        assert f"{100 * float(row['flops_kept']):.2f} % of the dense" in out
