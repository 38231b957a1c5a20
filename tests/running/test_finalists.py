"""The best few, judged once more under a recipe of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from autoprune.core.recipe import Finetune, Recipe
from tests.journeys import OWN, Cli, history_of

TUNED = ("--set", "finalists.count=2", "--set", "finalists.finetune.steps=6", "--set", "finalists.finetune.batch=32")
RUN = (*OWN, "--task", "tests.user_tasks:task", "--searcher", "random", *TUNED, "--output", "run")
TRAINED = Recipe(finetune=Finetune(6, batch=32))


def test_finalists_are_trials_of_the_best_allocations_under_their_recipe(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    trials = history_of(workdir / "run").trials()
    first, finals = trials[:3], trials[3:]
    assert [trial.candidate.role for trial in trials] == ["final"] * 3 + ["finalist"] * 2
    assert [trial.number for trial in finals] == [3, 4]
    best = sorted(first, key=lambda trial: trial.score.loss)[:2]
    assert [trial.candidate.allocation for trial in finals] == [trial.candidate.allocation for trial in best]
    assert {trial.candidate.recipe for trial in finals} == {TRAINED}
    assert max(trial.score.loss for trial in finals) < min(trial.score.loss for trial in first)  # training helps


def test_the_winner_is_a_finalist_and_is_applied_as_it_was_scored(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    best = yaml.safe_load((workdir / "run" / "best.yaml").read_text())
    winner = next(trial for trial in history_of(workdir / "run").trials() if trial.number == best["trial"])
    assert winner.candidate.role == "finalist"
    assert best["recipe"] == TRAINED.to_json()
    autoprune.succeed("apply", "run", "--output", "pruned.pt")
    found = autoprune.succeed(
        "evaluate", "pruned.pt", "--task", "tests.user_tasks:task", "--split", "validation", "--json"
    )
    assert json.loads(found.out)["accuracy"] == winner.score.accuracy == best["accuracy"]


def test_best_yaml_trains_anew(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    best = yaml.safe_load((workdir / "run" / "best.yaml").read_text())
    autoprune.succeed("apply", "run/best.yaml", "--task", "tests.user_tasks:task", "--output", "pruned.pt")
    found = autoprune.succeed("evaluate", "pruned.pt", "--task", "tests.user_tasks:task", "--json")
    assert json.loads(found.out)["loss"] == pytest.approx(best["loss"], rel=1e-4)


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
def test_a_run_cut_off_among_its_finalists_goes_on_there(autoprune: Cli, workdir: Path, kept: int) -> None:
    autoprune.succeed(*RUN)
    ledger = workdir / "run" / "ledger.jsonl"
    whole = ledger.read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(whole) if '"role": "finalist"' in line)
    ledger.write_text("".join(whole[: first + kept]))
    autoprune.succeed("search", "--resume", workdir / "run")
    after = [json.loads(line) for line in ledger.read_text().splitlines()]
    for event in ("asked", "told"):
        assert [record["number"] for record in after if record["event"] == event] == [0, 1, 2, 3, 4]
    expected = [json.loads(line) for line in whole if '"event": "finished"' in line]
    assert after[-1]["best"] == expected[0]["best"]


def test_without_a_recipe_of_their_own_no_trial_is_added(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*OWN, "--task", "tests.user_tasks:task", "--searcher", "random", "--output", "run")
    assert {trial.candidate.role for trial in history_of(workdir / "run").trials()} == {"final"}


def test_where_every_finalist_fails_the_best_trial_before_wins(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN, "--set", "finalists.finetune.rate=1e30")
    trials = history_of(workdir / "run").trials()
    assert [trial.failed for trial in trials] == [False] * 3 + [True] * 2
    best = min(trials[:3], key=lambda trial: (trial.score.loss, trial.number))
    assert yaml.safe_load((workdir / "run" / "best.yaml").read_text())["trial"] == best.number


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("finalists.count=0", "finalists.count"),
        ("finalists.finetune.steps=0", "finalists.finetune.steps"),
        ("finalists.finetune={rate: 0.1}", "steps: is needed but not given"),
        ("finalists.finetune={steps: 5, rate: -1}", "rate: should be above 0"),
        ("finalists.finetune={steps: 5, schedule: steps}", "schedule: should be one of cosine"),
        ("finalists.reconstruct=-1", "finalists.reconstruct"),
        ("evaluation.rungs=[0.5, 0.1]", "evaluation.rungs"),
        ("evaluation.rungs=[1.0]", "evaluation.rungs"),
        ("evaluation.objective=divergence", "evaluation.objective"),
    ],
)
def test_faults_are_named(autoprune: Cli, workdir: Path, setting: str, said: str) -> None:
    assert said in autoprune.refused(*OWN, "--task", "tests.user_tasks:task", "--set", setting)
