"""`apply` and `evaluate`: what comes out is what was promised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from autoprune.core.trial import Trial
from autoprune.evaluation.checkpoint import PrunedCheckpoint, load, read_checkpoint
from autoprune.tasks.digits import DigitsTask
from tests.journeys import OWN, SEARCH, Cli, DigitsRun, history_of

IMAGES = torch.rand(4, 1, 8, 8)


def read(path: str | Path) -> PrunedCheckpoint:
    checkpoint = read_checkpoint(Path(path))
    assert checkpoint is not None
    return checkpoint


def trials_of(run: Path) -> dict[int, Trial]:
    return {trial.number: trial for trial in history_of(run).trials()}


def test_the_best_trial_comes_out_as_it_was_scored(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    out = autoprune.succeed("apply", digits_run.folder, "--output", "new/pruned.pt").out
    best = history_of(digits_run.folder).last("finished")
    assert best is not None
    assert f"trial {best['best']} of {digits_run.folder}, as it was scored" in out
    trial = trials_of(digits_run.folder)[best["best"]]
    assert trial.score is not None
    checkpoint = read("new/pruned.pt")
    assert checkpoint.widths == trial.candidate.allocation
    assert checkpoint.metrics == {"accuracy": trial.score.accuracy, "loss": trial.score.loss, "images": 100}
    assert torch.equal(
        load("new/pruned.pt")(IMAGES), load(digits_run.folder / "weights" / f"{best['best']}.pt")(IMAGES)
    )


@pytest.mark.parametrize("number", range(4))
def test_any_trial_can_be_applied(autoprune: Cli, workdir: Path, digits_run: DigitsRun, number: int) -> None:
    autoprune.succeed("apply", digits_run.folder, "--trial", number, "--output", "p.pt")
    assert read("p.pt").widths == trials_of(digits_run.folder)[number].candidate.allocation


def test_a_trial_without_weights_is_pruned_anew_to_the_same_network(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    run = digits_run.copy(workdir)
    (run / "weights" / "2.pt").unlink()
    assert "pruned anew" in autoprune.succeed("apply", run, "--trial", 2, "--output", "p.pt").out
    assert torch.equal(load("p.pt")(IMAGES), load(digits_run.folder / "weights" / "2.pt")(IMAGES))


def test_best_yaml_alone_gives_the_same_network(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    autoprune.succeed("apply", digits_run.folder / "best.yaml", "--output", "p.pt")
    best = history_of(digits_run.folder).last("finished")
    assert best is not None
    assert torch.equal(load("p.pt")(IMAGES), load(digits_run.folder / "weights" / f"{best['best']}.pt")(IMAGES))


@pytest.mark.parametrize("setting", ["evaluation.recalibrate.images=64", "evaluation.reconstruct=64"])
def test_best_yaml_brings_its_recipe(autoprune: Cli, workdir: Path, setting: str) -> None:
    autoprune.succeed(*SEARCH, "--trials", "1", "--set", setting, "--output", "run")
    autoprune.succeed("apply", "run/best.yaml", "--output", "p.pt")
    assert torch.equal(load("p.pt")(IMAGES), load("run/weights/0.pt")(IMAGES))


def test_a_checkpoint_that_is_the_runs_own_changes_nothing_and_another_prunes_anew(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    task = DigitsTask()
    network = task.network()
    task.load(network, None)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, "own.pt")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    torch.save(network.state_dict(), "other.pt")
    own = autoprune.succeed("apply", digits_run.folder, "--checkpoint", "own.pt", "--output", "a.pt").out
    other = autoprune.succeed("apply", digits_run.folder, "--checkpoint", "other.pt", "--output", "b.pt").out
    assert "as it was scored" in own
    assert "pruned anew" in other
    assert read("a.pt").widths == read("b.pt").widths
    assert not torch.equal(load("a.pt")(IMAGES), load("b.pt")(IMAGES))


@pytest.mark.parametrize("source", ["run", "best.yaml"])
def test_fine_tuning_makes_it_better_and_is_measured_afterwards(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, source: str
) -> None:
    path = digits_run.folder if source == "run" else digits_run.folder / "best.yaml"
    autoprune.succeed("apply", path, "--output", "before.pt")
    out = autoprune.succeed("apply", path, "--finetune", "epochs=3,rate=0.02,batch=64", "--output", "after.pt").out
    assert "fine-tuned (epochs=3.0 rate=0.02 batch=64)" in out
    before, after = (json.loads(autoprune.succeed("evaluate", f, "--json").out) for f in ("before.pt", "after.pt"))
    assert after["loss"] < before["loss"]
    assert after["flops"] == before["flops"]
    assert read("after.pt").metrics == {"accuracy": after["accuracy"], "loss": after["loss"], "images": 400}
    assert read("after.pt").widths == read("before.pt").widths


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_apply_exports(autoprune: Cli, workdir: Path, digits_run: DigitsRun, form: str) -> None:
    outcome = autoprune.succeed("apply", digits_run.folder, "--output", "p.pt", "--export", form)
    assert f"p.{form}: the same network" in outcome.out
    assert sorted(path.name for path in workdir.iterdir()) == sorted(["p.pt", f"p.{form}"])


def test_evaluate_says_the_same_of_a_dense_file_and_the_dense_row(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    task = DigitsTask()
    network = task.network()
    task.load(network, None)
    torch.save(network.state_dict(), "dense.pt")
    row = next(row for row in history_of(digits_run.folder).of("result") if row["name"] == "dense")
    for split in ("validation", "test"):
        report = json.loads(autoprune.succeed("evaluate", "dense.pt", "--split", split, "--json").out)
        assert report["accuracy"] == row[split]["accuracy"]
        assert report["loss"] == pytest.approx(row[split]["loss"], rel=1e-6)
        assert {kind: report[kind] for kind in row["costs"]} == row["costs"]
    report = json.loads(autoprune.succeed("evaluate", "dense.pt", "--split", "all", "--json").out)
    assert report["images"] == 797


def test_a_users_own_network_goes_the_whole_way(autoprune: Cli, workdir: Path) -> None:
    named = ("--task", "tests.user_tasks:task")
    autoprune.succeed(*OWN, *named, "--output", "run")
    autoprune.succeed("apply", "run", "--output", "p.pt")
    report = json.loads(autoprune.succeed("evaluate", "p.pt", *named, "--json").out)
    metrics = read("p.pt").metrics
    assert report["accuracy"] == metrics["accuracy"]
    assert "name it with --task" in autoprune.refused("evaluate", "p.pt")
    assert "name it with --task" in autoprune.refused("apply", "run/best.yaml", "--output", "q.pt")
    autoprune.succeed("apply", "run/best.yaml", *named, "--output", "q.pt")
    assert read("q.pt").state_dict.keys() == read("p.pt").state_dict.keys()


def test_a_pruned_file_does_not_evaluate_as_another_network(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*OWN, "--task", "tests.user_tasks:task", "--output", "run")
    autoprune.succeed("apply", "run", "--output", "p.pt")
    assert "the network does not have" in autoprune.refused("evaluate", "p.pt", "--task", "digits")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parent": 4}, "which are those that trial 4 left; apply the run's folder"),
        ({"recipe": {"recalibrate": 512, "admm": {"steps": 10}}}, "which were trained before they were pruned"),
    ],
)
def test_widths_without_the_weights_they_were_found_for_are_refused(
    autoprune: Cli, workdir: Path, change: dict[str, object], said: str
) -> None:
    best = {"widths": {"conv": 4}, "task": "digits", "model": "digits_resnet", "pruner": "l1_filter", **change}
    Path("best.yaml").write_text(yaml.safe_dump(best))
    assert said in autoprune.refused("apply", "best.yaml", "--output", "p.pt")
