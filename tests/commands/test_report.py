"""`autoprune report`, on a real run and on what is none."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

from tests.commands.test_startup import HEAVY, run
from tests.journeys import Cli, DigitsRun
from tests.reporting.ledgers import write_run


def test_a_table_says_what_a_run_came_to(autoprune: Cli, digits_run: DigitsRun) -> None:
    out = autoprune.succeed("report", digits_run.folder).out
    heading, line = out.splitlines()[:2]
    assert "state" in heading
    assert "finished" in line
    assert "budget flops=0.5" in out


def test_every_format_reads_a_finished_run(autoprune: Cli, digits_run: DigitsRun) -> None:
    (one,) = json.loads(autoprune.succeed("report", digits_run.folder, "--format", "json").out)["runs"]
    assert one["command"][:2] == ["autoprune", "search"]
    assert one["environment"]["torch"].startswith("2.")
    assert set(one["comparison"]) == {"performance", "params", "flops"}
    rows = list(csv.DictReader(io.StringIO(autoprune.succeed("report", digits_run.folder, "--format", "csv").out)))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]


def test_a_page_goes_into_the_runs_folder_or_where_it_is_told(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    folder = digits_run.copy(workdir)
    assert autoprune.succeed("report", folder, "--format", "html").out.strip() == str(folder / "report" / "index.html")
    assert "finished" in (folder / "report" / "index.html").read_text()
    autoprune.succeed("report", folder, "--format", "csv", "--output", "tables")
    assert (workdir / "tables" / "trials.csv").read_text().startswith("run,trial")


def test_a_report_needs_the_ledger_alone(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    (workdir / "alone").mkdir()
    shutil.copy(digits_run.folder / "ledger.jsonl", workdir / "alone")
    autoprune.succeed("report", "alone", "--format", "html")
    assert (workdir / "alone" / "report" / "sensitivity-loss.png").is_file()


def test_a_report_imports_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    for form in ("table", "json", "csv", "html"):
        code, _, imported, _ = run("report", "run", "--format", form, folder=tmp_path)
        assert code == 0
        allowed = {"numpy", "matplotlib"} if form == "html" else {"numpy"}
        assert imported & (HEAVY - allowed) == set()


def test_a_folder_named_twice_is_reported_once(autoprune: Cli, workdir: Path) -> None:
    write_run(workdir / "run")
    outcome = autoprune.succeed("report", "run", "./run/", "--format", "csv")
    assert "run is named twice and reported once" in outcome.err
    assert len(outcome.out.splitlines()) == 6


def test_what_cannot_be_reported_is_refused(autoprune: Cli, workdir: Path) -> None:
    write_run(workdir / "run")
    write_run(workdir / "other")
    assert "has no ledger.jsonl" in autoprune.refused("report", "run", "missing")
    assert "--output" in autoprune.refused("report", "run", "other", "--format", "html")
    (workdir / "file").write_text("")
    assert "file cannot be made" in autoprune.refused("report", "run", "--format", "html", "--output", "file")
    (workdir / "run" / "ledger.jsonl").write_text('{"event": "started", "version": 99}\n')
    assert "has version 99" in autoprune.refused("report", "run")


def test_an_empty_ledger_is_a_run_that_has_not_begun(autoprune: Cli, workdir: Path) -> None:
    (workdir / "run").mkdir()
    (workdir / "run" / "ledger.jsonl").write_text("")
    assert "interrupted, 0 trials" in autoprune.succeed("report", "run").out
    autoprune.succeed("report", "run", "--format", "html")
    assert json.loads(autoprune.succeed("report", "run", "--format", "json").out)["runs"][0]["state"] == "interrupted"


def test_different_tasks_are_compared_with_a_word_of_caution(autoprune: Cli, workdir: Path) -> None:
    write_run(workdir / "one")
    write_run(workdir / "two", identity={"task": "cifar10", "model": "resnet20"})
    assert "different tasks and networks" in autoprune.succeed("report", "one", "two").out
