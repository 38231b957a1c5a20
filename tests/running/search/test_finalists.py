"""The best few, judged once more under a recipe of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from autoprune.core.recipe import Finetune, Recipe
from tests.journeys import OWN, Cli, history_of
from tests.user_tasks import task

TUNED = ("--set", "search.rerank.top=2", "--set", "search.rerank.steps=6", "--set", "search.rerank.batch_size=32")
RUN = (*OWN, "--task", "tests.user_tasks:task", "--searcher", "random", *TUNED, "--output", "run")
TRAINED = Recipe(finetune=Finetune(6, batch_size=32))


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
    assert json.loads(found.out)["metrics"] == winner.score.metrics == best["metrics"]


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


TRAINED_BEFORE = (*RUN, "--set", "evaluation.finetune.steps=3", "--set", "evaluation.finetune.batch_size=32")


def test_a_finalist_starts_from_the_weights_of_a_trial_that_trained(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*TRAINED_BEFORE)
    trials = history_of(workdir / "run").trials()
    first, finals = trials[:3], trials[3:]
    best = sorted(first, key=lambda trial: trial.score.loss)[:2]
    assert [trial.candidate.parent for trial in finals] == [trial.number for trial in best]
    assert [trial.candidate.allocation for trial in finals] == [trial.candidate.allocation for trial in best]
    assert {trial.candidate.recipe for trial in finals} == {TRAINED}
    assert max(trial.score.loss for trial in finals) < min(trial.score.loss for trial in first)


def test_a_finalist_starts_from_the_dense_network_where_no_trial_trained(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    assert {trial.candidate.parent for trial in history_of(workdir / "run").trials()} == {None}


def test_a_length_in_epochs_is_as_many_steps_as_the_samples_take(autoprune: Cli, workdir: Path) -> None:
    lengths = ("--set", "search.rerank.steps=null", "--set", "search.rerank.epochs=2")
    autoprune.succeed(*RUN, *lengths)
    trials = history_of(workdir / "run").trials()
    assert {trial.candidate.recipe for trial in trials[3:]} == {TRAINED}  # 96 samples, 32 a step
    settings = yaml.safe_load((workdir / "run" / "experiment.yaml").read_text())["search"]["rerank"]
    assert (settings["steps"], settings["epochs"], settings["top"]) == (6, None, 2)
    autoprune.succeed("search", "--resume", "run")
    assert len(history_of(workdir / "run").trials()) == len(trials)


def test_a_winner_with_a_parent_is_applied_from_the_runs_folder_alone(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*TRAINED_BEFORE)
    best = yaml.safe_load((workdir / "run" / "best.yaml").read_text())
    said = autoprune.refused("apply", "run/best.yaml", "--task", "tests.user_tasks:task", "--output", "pruned.pt")
    assert f"not the weights that go with them, which are those that trial {best['parent']} left" in said
    (workdir / "run" / "weights" / f"{best['trial']}.pt").unlink()
    assert "pruned anew" in autoprune.succeed("apply", "run", "--output", "pruned.pt").out
    found = autoprune.succeed("evaluate", "pruned.pt", "--task", "tests.user_tasks:task", "--json")
    assert json.loads(found.out)["loss"] == pytest.approx(best["loss"], rel=1e-4)
    torch.save({name: tensor + 1 for name, tensor in task.network().state_dict().items()}, "other.pt")
    forced = ("apply", "run", "--checkpoint", "other.pt", "--force", "--output", "other-pruned.pt")
    said = autoprune.refused(*forced)
    assert f"starts from the weights of trial {best['parent']}, which come from the run's own checkpoint" in said
    (workdir / "run" / "weights" / f"{best['parent']}.pt").unlink()
    assert "the weights of the parent" in autoprune.refused("apply", "run", "--output", "again.pt")


def test_without_a_recipe_of_their_own_no_trial_is_added(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*OWN, "--task", "tests.user_tasks:task", "--searcher", "random", "--output", "run")
    assert {trial.candidate.role for trial in history_of(workdir / "run").trials()} == {"final"}


def test_where_every_finalist_fails_the_best_trial_before_wins(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN, "--set", "search.rerank.rate=1e30")
    trials = history_of(workdir / "run").trials()
    assert [trial.failed for trial in trials] == [False] * 3 + [True] * 2
    best = min(trials[:3], key=lambda trial: (trial.score.loss, trial.number))
    assert yaml.safe_load((workdir / "run" / "best.yaml").read_text())["trial"] == best.number


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("search.rerank.top=0", "search.rerank.top"),
        ("search.rerank.steps=0", "search.rerank.steps"),
        ("search.rerank={rate: 0.1}", "search.rerank: rate given, but nothing trains: give steps or epochs too"),
        ("search.rerank={steps: 5, epochs: 1}", "search.rerank: should have steps or epochs but has both (5 and 1)"),
        ("search.rerank.epochs=0", "search.rerank.epochs: should be above 0"),
        ("search.rerank={top: 2, step: 5}", "search.rerank: step: unknown key; did you mean 'steps'?"),
        ("search.rerank=5", "search.rerank: should be a mapping (key: value) but is 5"),
        ("evaluation.finetune={rate: 0.1}", "evaluation.finetune: needs steps or epochs but has neither"),
        ("finalists.count=2", "finalists.count: unknown key; known: task"),
        ("search.rerank={steps: 5, rate: -1}", "rate: should be above 0"),
        ("search.rerank={steps: 5, schedule: steps}", "schedule: 'steps' needs milestones"),
        ("search.rerank.reconstruct=-1", "search.rerank.reconstruct"),
        ("evaluation.rungs=[0.5, 0.1]", "evaluation.rungs"),
        ("evaluation.rungs=[1.0]", "evaluation.rungs"),
        ("evaluation.objective=divergence", "evaluation.objective"),
    ],
)
def test_faults_are_named(autoprune: Cli, workdir: Path, setting: str, said: str) -> None:
    assert said in autoprune.refused(*OWN, "--task", "tests.user_tasks:task", "--set", setting)
