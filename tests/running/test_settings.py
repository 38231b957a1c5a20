"""Settings that are searched along, from the command line to the applied network."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoprune.core.trial import Candidate, Trial
from autoprune.running.tracking.mlflow_runs import trial_params
from tests.journeys import OWN, Cli, history_of, search_in_child, trial_results
from tests.running.test_resuming import dying
from tests.tiers import rest_slow

TASK = ("--task", "tests.user_tasks:task")
CRITERIA = ("--set", "space.settings.criterion=[l1, l2, apoz]")
THIRD = ("--set", "space.settings.criterion.third=[l1, fpgm]")
RATE = ("--set", "space.settings.finetune.rate={low: 0.001, high: 0.5, log: true}")
TRAINED = ("--set", "evaluation.finetune.steps=3", "--set", "evaluation.finetune.batch_size=32")
JOINT = (*OWN, *TASK, *CRITERIA, *THIRD, *RATE, *TRAINED, "--trials", "12", "--set", "search.rerank.top=2")
RUN = (*JOINT, "--searcher", "tpe", "--output", "run")


def best_of(folder: Path) -> tuple[dict[str, Any], Trial]:
    best = yaml.safe_load((folder / "best.yaml").read_text())
    return best, next(trial for trial in history_of(folder).trials() if trial.number == best["trial"])


def loss_of(autoprune: Cli, path: str) -> float:
    found = autoprune.succeed("evaluate", path, *TASK, "--split", "validation", "--json")
    return float(json.loads(found.out)["loss"])


def test_what_was_chosen_stands_in_every_record(autoprune: Cli, workdir: Path) -> None:
    said = autoprune.succeed(*RUN).out
    best, winner = best_of(workdir / "run")
    chosen = dict(winner.candidate.settings)
    assert list(chosen) == ["criterion", "criterion.third", "finetune.rate"]
    assert best["settings"] == chosen
    assert best["scoring"]["criterion"] == chosen["criterion"]
    assert best["recipe"]["finetune"]["rate"] == chosen["finetune.rate"]
    rows = {row["network"]: row for row in csv.DictReader((workdir / "run" / "results.csv").open())}
    assert rows["best"]["settings.finetune.rate"] == str(chosen["finetune.rate"])
    assert rows["uniform"]["settings.criterion"] == "l1"
    assert rows["uniform"]["settings.finetune.rate"] == "0.02"
    assert rows["dense"]["settings.criterion"] == ""
    for name, value in chosen.items():
        assert f"{name}={value}" in said


def test_trials_differ_in_settings_and_the_starts_have_the_experiments_own(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    trials = history_of(workdir / "run").trials()
    own = {"criterion": "l1", "criterion.third": "l1", "finetune.rate": 0.02}
    assert trials[0].candidate.settings == own
    assert len({tuple(trial.candidate.settings.values()) for trial in trials}) > 4
    assert all(trial.score for trial in trials)


def test_the_winner_is_applied_with_its_criteria_and_its_training(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    run = workdir / "run"
    other = next(
        t
        for t in history_of(run).trials()
        if t.score and t.candidate.settings["criterion"] != "l1" and t.candidate.settings["criterion.third"] == "fpgm"
    )
    autoprune.succeed("apply", "run", "--trial", other.number, "--output", "kept.pt")
    assert loss_of(autoprune, "kept.pt") == pytest.approx(other.score.loss, rel=1e-4)
    for path in (run / "weights").glob("*.pt"):
        path.unlink()
    autoprune.succeed("apply", "run", "--trial", other.number, "--output", "anew.pt")
    assert loss_of(autoprune, "anew.pt") == pytest.approx(other.score.loss, rel=1e-4)


def test_best_yaml_alone_prunes_anew_by_the_criteria_of_single_groups(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    best, winner = best_of(workdir / "run")
    autoprune.succeed("apply", "run/best.yaml", *TASK, "--output", "plain.pt")
    assert loss_of(autoprune, "plain.pt") == pytest.approx(winner.score.loss, rel=1e-4)
    losses = []
    for criterion in ("l1", "fpgm"):
        best |= {"widths": {"second": 8, "third": 6}, "settings": {"criterion.third": criterion}}
        (workdir / "flipped.yaml").write_text(yaml.safe_dump(best))
        autoprune.succeed("apply", "flipped.yaml", *TASK, "--output", "flipped.pt", "--overwrite")
        losses.append(loss_of(autoprune, "flipped.pt"))
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)
    best["settings"]["criterion.third"] = "fpgn"
    (workdir / "flipped.yaml").write_text(yaml.safe_dump(best))
    assert "did you mean 'fpgm'?" in autoprune.refused("apply", "flipped.yaml", *TASK, "--output", "p.pt")


@pytest.mark.parametrize("searcher", rest_slow(["tpe", "auto"], kept=0))
def test_a_killed_joint_search_goes_on_and_ends_as_if_it_had_not_been(
    autoprune: Cli, workdir: Path, searcher: str
) -> None:
    command = (*JOINT, "--searcher", searcher)
    autoprune.succeed(*command, "--output", "whole")
    assert search_in_child(*command, "--output", "run", before=dying("told", 8)) == -signal.SIGKILL
    autoprune.succeed("search", "--resume", "run")
    whole, broken = history_of(workdir / "whole"), history_of(workdir / "run")
    assert trial_results(broken) == trial_results(whole)
    assert [t.candidate.settings for t in broken.trials()] == [t.candidate.settings for t in whole.trials()]


@pytest.mark.parametrize("searcher", rest_slow(["knapsack", "annealing"]))
def test_a_searcher_of_widths_alone_says_so_once_and_keeps_the_defaults(
    autoprune: Cli, workdir: Path, searcher: str
) -> None:
    said = autoprune.succeed(*JOINT, "--searcher", searcher, "--trials", "4", "--output", "run").err
    line = " ".join(said.split())
    assert line.count(f"searcher '{searcher}' searches widths alone") == 1
    assert "criterion=l1 criterion.third=l1 finetune.rate=0.02" in line
    assert "random, evolution, tpe, gp, cmaes, auto" in line
    trials = history_of(workdir / "run").trials()
    assert {tuple(trial.candidate.settings.values()) for trial in trials} == {("l1", "l1", 0.02)}


def test_who_searches_settings_says_nothing_of_the_kind(autoprune: Cli, workdir: Path) -> None:
    assert "searches widths alone" not in autoprune.succeed(*RUN).err


def test_a_value_of_ones_own_outside_the_dimension_gives_way_to_the_first_choice(autoprune: Cli, workdir: Path) -> None:
    choices = ("--set", "space.settings.criterion=[fpgm, l2]", "--set", "space.settings.finetune.rate=[0.1, 0.2]")
    command = (*OWN, *TASK, *TRAINED, *choices, "--searcher", "tpe", "--trials", "2", "--output", "run")
    autoprune.succeed(*command)
    first = history_of(workdir / "run").trials()[0]
    assert first.candidate.settings == {"criterion": "fpgm", "finetune.rate": 0.1}


def test_a_run_costs_at_most_what_it_may_whatever_steps_are_chosen(autoprune: Cli, workdir: Path) -> None:
    steps = ("--set", "space.settings.finetune.steps={low: 1, high: 9}", "--set", "space.settings.recalibrate=[16, 64]")
    few = ("--set", "evaluation.samples=100", "--set", "search.rerank.top=1", "--evaluations", "400")
    command = (*OWN[:-4], *OWN[-2:], *TASK, *steps, *few, "--searcher", "random", "--trials", "500")
    autoprune.succeed(*command, "--output", "run")
    history = history_of(workdir / "run")
    dense = history.last("dense")
    unit = dense["score"]["samples"] * dense["costs"]["flops"] // 2
    spent = 1 + sum(record.get("work", 0) for record in history.records) / unit
    trials = history.trials()
    dearest = max(trial.work for trial in trials) / unit
    assert 400 - 1.5 * dearest < spent <= 400
    assert len({trial.candidate.settings["finetune.steps"] for trial in trials}) > 4


def test_finalists_keep_what_their_section_does_not_say(autoprune: Cli, workdir: Path) -> None:
    final = ("--set", "search.rerank.steps=6", "--set", "search.rerank.batch_size=32")
    autoprune.succeed(*RUN, *final)
    trials = history_of(workdir / "run").trials()
    finals = [trial for trial in trials if trial.candidate.role == "finalist"]
    assert finals
    for trial in finals:
        assert set(trial.candidate.settings) == {"criterion", "criterion.third"}
        assert trial.candidate.recipe.finetune.steps == 6
        assert any(
            other.candidate.allocation == trial.candidate.allocation
            and trial.candidate.settings.items() <= other.candidate.settings.items()
            for other in trials[:12]
        )
    autoprune.succeed("search", "--resume", "run")
    assert len(history_of(workdir / "run").trials()) == len(trials)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["space.settings.criterion.layer9.*=[l1, l2]"], "'layer9.*' matches no group"),
        (["space.settings.criterion=[magnitude, apoz]", "scoring.pattern=element"], "criterion 'apoz' scores whole"),
        (["space.settings.reconstruct=[0, 64]", "scoring.pattern=element"], "evaluation.reconstruct refits"),
        (["space.settings.finetune.rate=[0.1, 0.2]"], "candidates are not fine-tuned"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    autoprune: Cli, workdir: Path, sets: list[str], said: str
) -> None:
    options = [part for each in sets for part in ("--set", each)]
    command = [*OWN[:-4], *OWN[-2:], *TASK, "--set", "scoring.criterion=magnitude", *options, "--searcher", "random"]
    assert said in autoprune.refused(*command, "--output", "run")
    assert not (workdir / "run").exists()


def test_settings_are_parameters_under_names_that_mlflow_takes(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*RUN)
    _, winner = best_of(workdir / "run")
    params = trial_params(winner, {"searcher": "tpe", "pruner": "l1_filter", "costs": "actual"})
    assert params["settings.criterion"] == winner.candidate.settings["criterion"]
    star = Trial(Candidate(0, winner.candidate.allocation, settings={"criterion.a.*": "l1"}), winner.outcome)
    assert trial_params(star, {"searcher": "tpe", "pruner": "x", "costs": "y"})["settings.criterion.a._"] == "l1"
