"""`--evaluations` caps what a run costs, and says so when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.core.trial import Candidate
from tests.journeys import HALF, OWN, UNTRACKED, Cli, history_of
from tests.tiers import rest_slow

TASK = ("--task", "tests.user_tasks:task")
IMAGES = 100
FEW = ("--set", f"evaluation.samples={IMAGES}", "--set", f"sensitivity.samples={IMAGES}")
FEW = (*FEW, "--set", "evaluation.recalibrate.samples=64", "--set", "search.rerank.top=1")
CAPPED = ("search", *HALF, *FEW, *UNTRACKED)


def spent(folder: Path) -> float:
    """What the ledger says that a run has cost, in evaluations."""
    history = history_of(folder)
    dense = history.last("dense")
    assert dense is not None
    unit = IMAGES * dense["costs"]["flops"] // 2
    return 1 + sum(record.get("work", 0) for record in history.records) / unit


@pytest.mark.parametrize("searcher", rest_slow(["evolution", "random", "tpe"]))
def test_a_run_costs_at_most_what_it_may(autoprune: Cli, workdir: Path, searcher: str) -> None:
    autoprune.succeed(*CAPPED, "--evaluations", "20", "--searcher", searcher, "--output", "run")
    assert 18 < spent(workdir / "run") <= 20  # less is left over than a candidate costs


@pytest.mark.slow
def test_the_sweep_takes_fewer_levels_where_it_would_cost_too_much(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*CAPPED, "--evaluations", "100", "--searcher", "knapsack", "--output", "much")
    autoprune.succeed(*CAPPED, "--evaluations", "40", "--searcher", "knapsack", "--output", "less")
    much, less = (len(history_of(workdir / name).of("level")) for name in ("much", "less"))
    assert 1 < less < much


def test_who_uses_no_curves_has_no_sweep(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*OWN, *TASK, "--searcher", "random", "--output", "run")
    assert history_of(workdir / "run").of("level") == []
    assert not (workdir / "run" / "sensitivity.json").exists()


def test_too_few_evaluations_are_refused_before_anything_is_written(autoprune: Cli, workdir: Path) -> None:
    said = autoprune.refused(*CAPPED, "--evaluations", "1", "--output", "run")
    assert said.startswith(
        "--evaluations 1 does not pay for the dense network, one candidate and the finalists; give at"
    )
    assert not (workdir / "run").exists()
    least = said.partition("give at least ")[2].partition(",")[0]
    autoprune.succeed(*CAPPED, "--evaluations", least, "--searcher", "random", "--output", "run")


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "many"])
def test_evaluations_are_a_whole_number(autoprune: Cli, workdir: Path, text: str) -> None:
    assert "--evaluations" in autoprune.refused(*CAPPED, "--evaluations", text)


def test_trials_and_evaluations_both_end_a_search(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*CAPPED, "--evaluations", "20", "--trials", "2", "--searcher", "random", "--output", "run")
    assert len(history_of(workdir / "run").trials()) == 2


def test_a_resumed_run_ends_where_an_unbroken_one_does(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*CAPPED, "--evaluations", "20", "--searcher", "evolution", "--output", "run")
    ledger = workdir / "run" / "ledger.jsonl"
    whole = ledger.read_text().splitlines(keepends=True)
    told = [i for i, line in enumerate(whole) if '"event": "told"' in line]
    ledger.write_text("".join(whole[: told[3] + 1]))
    autoprune.succeed("search", "--resume", workdir / "run")

    def asked(lines: list[str]) -> list[str]:
        return [line.partition('"number"')[2] for line in lines if '"event": "asked"' in line]

    assert asked(ledger.read_text().splitlines(keepends=True)) == asked(whole)


def test_finalists_are_reserved_for(autoprune: Cli, workdir: Path) -> None:
    finals = (
        "--set",
        "search.rerank.top=2",
        "--set",
        "search.rerank.steps=2",
        "--set",
        "search.rerank.batch_size=32",
    )
    autoprune.succeed(*CAPPED, *finals, "--evaluations", "30", "--searcher", "random", "--output", "run")
    steps = [step for step in history_of(workdir / "run").steps() if isinstance(step, Candidate)]
    assert [step.role for step in steps[-2:]] == ["finalist", "finalist"]
    assert 28 < spent(workdir / "run") <= 30
