"""A ledger cut at any byte of its last record, or written by another release."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autoprune.core.ledger import VERSION, read_history
from autoprune.reporting.record import read_record
from tests.journeys import OWN, Cli, history_of, search_in_child, trial_results

pytestmark = pytest.mark.usefixtures("without_latencies")

RUN = (*OWN, "--task", "tests.user_tasks:task", "--searcher", "evolution")


@pytest.fixture(scope="module")
def whole(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert search_in_child(*RUN, "--output", folder) == 0
    return folder


def up_to(run: Path, event: str) -> tuple[bytes, bytes]:
    """What a ledger has before the last record of one kind, and that record."""
    lines = (run / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    place = max(i for i, line in enumerate(lines) if json.loads(line)["event"] == event)
    return b"".join(lines[:place]), lines[place]


def check_resumed(autoprune: Cli, run: Path, whole: Path, before: bytes) -> None:
    autoprune.succeed("search", "--resume", run)
    assert (run / "ledger.jsonl").read_bytes().startswith(before)
    assert trial_results(history_of(run)) == trial_results(history_of(whole))
    told = [record["number"] for record in history_of(run).of("told")]
    assert len(set(told)) == len(told)
    assert (run / "best.yaml").read_text() == (whole / "best.yaml").read_text()


@pytest.mark.parametrize("event", ["level", "asked", "told", "finished"])
def test_every_byte_of_the_last_record_may_be_the_last_to_be_read(workdir: Path, whole: Path, event: str) -> None:
    run = shutil.copytree(whole, workdir / "run")
    before, last = up_to(whole, event)
    (run / "ledger.jsonl").write_bytes(before)
    expected = read_record(run)
    for cut in range(len(last)):
        (run / "ledger.jsonl").write_bytes(before + last[:cut])
        assert read_history(run).records == expected.history.records
    assert read_record(run) == expected
    (run / "ledger.jsonl").write_bytes(before + last)
    assert len(read_history(run).records) == len(expected.history.records) + 1


@pytest.mark.parametrize(
    ("event", "cut"), [("started", 20), ("level", 40), ("asked", 0), ("told", 1), ("told", -1), ("finished", 30)]
)
def test_a_run_resumes_from_a_torn_ledger(autoprune: Cli, workdir: Path, whole: Path, event: str, cut: int) -> None:
    run = shutil.copytree(whole, workdir / "run")
    before, last = up_to(whole, event)
    (run / "ledger.jsonl").write_bytes(before + last[:cut])
    check_resumed(autoprune, run, whole, before)


@pytest.mark.slow
def test_a_run_resumes_from_every_byte_of_its_last_trial(autoprune: Cli, workdir: Path, whole: Path) -> None:
    before, last = up_to(whole, "told")
    for cut in range(len(last)):
        run = shutil.copytree(whole, workdir / str(cut))
        (run / "ledger.jsonl").write_bytes(before + last[:cut])
        check_resumed(autoprune, run, whole, before)
        shutil.rmtree(run)


def test_a_run_that_a_newer_release_resumed_is_refused_by_every_command(
    autoprune: Cli, workdir: Path, whole: Path
) -> None:
    run = shutil.copytree(whole, workdir / "run")
    with open(run / "ledger.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "resumed", "time": 1.0, "version": VERSION + 1, "new": "field"}) + "\n")
    before = (run / "ledger.jsonl").read_bytes()
    for command in (
        ("search", "--resume", "run"),
        ("report", "run"),
        ("track", "run"),
        ("apply", "run", "--output", "p.pt"),
    ):
        said = autoprune.refused(*command)
        assert f"has version {VERSION + 1}, but this release of autoprune reads up to {VERSION}" in said
    assert (run / "ledger.jsonl").read_bytes() == before
