"""`apply` and `evaluate`: what comes out is what the search scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from autoprune.core.trial import Trial
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, load, read_checkpoint
from autoprune.tasks.datasets.digits import DigitsTask
from tests.journeys import OWN, SEARCH, Cli, DigitsRun, history_of, left_behind
from tests.tiers import rest_slow

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
    assert checkpoint.metrics == {"accuracy": trial.score.metrics["accuracy"], "loss": trial.score.loss, "samples": 100}
    assert torch.equal(
        load("new/pruned.pt")(IMAGES), load(digits_run.folder / "weights" / f"{best['best']}.pt")(IMAGES)
    )


@pytest.mark.parametrize("number", rest_slow(range(4)))
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


@pytest.mark.parametrize("setting", ["evaluation.recalibrate.samples=64", "evaluation.reconstruct=64"])
def test_best_yaml_brings_its_recipe(autoprune: Cli, workdir: Path, setting: str) -> None:
    autoprune.succeed(*SEARCH, "--trials", "1", "--set", setting, "--output", "run")
    autoprune.succeed("apply", "run/best.yaml", "--output", "p.pt")
    assert torch.equal(load("p.pt")(IMAGES), load("run/weights/0.pt")(IMAGES))


def other_weights() -> str:
    """A checkpoint of the digits' network that was not searched on."""
    task = DigitsTask()
    network = task.network()
    task.load(network, None)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    torch.save(network.state_dict(), "other.pt")
    return "other.pt"


def test_a_checkpoint_that_is_the_runs_own_changes_nothing(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    task = DigitsTask()
    network = task.network()
    task.load(network, None)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, "own.pt")
    for source, said in ((digits_run.folder, "as it was scored"), (digits_run.folder / "best.yaml", "pruned anew")):
        out = autoprune.succeed("apply", source, "--checkpoint", "own.pt", "--output", "a.pt", "--overwrite").out
        assert said in out
        assert "as in the search" in out


def test_other_weights_than_were_searched_on_are_refused_unless_they_are_forced(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    other, searched = other_weights(), yaml.safe_load((digits_run.folder / "best.yaml").read_text())
    for source in (digits_run.folder, digits_run.folder / "best.yaml"):
        named = ("apply", source, "--checkpoint", other, "--output", "b.pt")
        said = autoprune.refused(*named)
        assert f"other.pt has other weights than {source} was searched on (SHA-256 " in said
        assert f"not {searched['checkpoint_sha256'][:12]}…)" in said
        assert "--force" in said
        assert not Path("b.pt").exists()
        out = autoprune.succeed(*named, "--force").out
        assert "pruned anew" in out
        assert f"({_accuracy(searched)} and {searched['loss']:.4f} with the weights that were" in out
        Path("b.pt").rename("forced.pt")
    autoprune.succeed("apply", digits_run.folder, "--output", "a.pt")
    assert read("a.pt").widths == read("forced.pt").widths
    assert not torch.equal(load("a.pt")(IMAGES), load("forced.pt")(IMAGES))


def test_weights_that_changed_since_the_search_are_found_out_where_they_are_pruned_anew(
    autoprune: Cli, workdir: Path
) -> None:
    task = DigitsTask()
    network = task.network()
    task.load(network, None)
    torch.save(network.state_dict(), "w.pt")
    autoprune.succeed(*SEARCH, "--trials", "1", "--searcher", "uniform", "--checkpoint", "w.pt", "--output", "run")
    Path(other_weights()).rename("w.pt")
    distilled = ("apply", "run", "--finetune", "steps=2,distill=1", "--output", "distilled.pt")
    assert "as it was scored" in autoprune.succeed("apply", "run", "--output", "kept.pt").out
    assert "w.pt has other weights than run was searched on" in autoprune.refused(*distilled)
    Path("w.pt").rename("elsewhere.pt")
    assert "as it was scored" in autoprune.succeed("apply", "run", "--output", "without.pt").out
    assert "the checkpoint that run was searched on is gone" in autoprune.refused(*distilled)
    Path("elsewhere.pt").rename("w.pt")
    (workdir / "run" / "weights" / "0.pt").unlink()
    assert "w.pt has other weights than run was searched on" in autoprune.refused("apply", "run", "--output", "a.pt")
    best = ("apply", "run/best.yaml", "--checkpoint", "w.pt", "--output", "a.pt")
    assert "w.pt has other weights than run/best.yaml was searched on" in autoprune.refused(*best)


def test_a_checkpoint_of_another_architecture_is_refused(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    torch.save({"conv9.weight": torch.ones(3)}, "odd.pt")
    for force in ((), ("--force",)):
        said = autoprune.refused("apply", digits_run.folder, "--checkpoint", "odd.pt", *force, "--output", "a.pt")
        assert "does not fit the network DigitsResNet: missing: " in said
        assert f"leave out --checkpoint, or give the one that {digits_run.folder} was searched on" in said


def test_what_to_expect_is_what_all_validation_samples_say(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    """The trials were judged on 100 of the 400 samples, the best ones on all of them at the end."""
    best = yaml.safe_load((digits_run.folder / "best.yaml").read_text())
    wanted = f"{_accuracy(best)} accuracy and a loss of {best['loss']:.4f} on 400 validation samples"
    run = autoprune.succeed("apply", digits_run.folder, "--output", "a.pt").out
    alone = autoprune.succeed("apply", digits_run.folder / "best.yaml", "--output", "b.pt").out
    for out in (run, alone):
        assert f"expect {wanted}, as in the search\n" in out
        assert "read back, it costs what the search counted\n" in out


def test_a_best_yaml_without_results_is_compared_with_nothing(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    best = yaml.safe_load((digits_run.folder / "best.yaml").read_text())
    Path("mine.yaml").write_text(yaml.safe_dump({n: best[n] for n in ("widths", "task", "model", "pruner")}))
    out = autoprune.succeed("apply", "mine.yaml", "--output", "a.pt").out
    assert f"expect {_accuracy(best)} accuracy" in out
    assert "as in the search" not in out
    assert "read back, it costs what autoprune counted" in out


def test_widths_that_were_changed_by_hand_are_not_said_to_score_what_others_did(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    best = yaml.safe_load((digits_run.folder / "best.yaml").read_text())
    best["widths"]["stage1.conv1"] -= 1
    Path("mine.yaml").write_text(yaml.safe_dump(best))
    out = autoprune.succeed("apply", "mine.yaml", "--output", "a.pt").out
    assert "in the search" not in out
    assert "mine.yaml has the metrics and costs of another network: were its widths changed?" in out


def test_a_file_that_is_not_what_the_search_scored_is_noticed(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = digits_run.copy(workdir)
    weights = sorted((run / "weights").glob("*.pt"))
    number, other = (int(path.stem) for path in weights[:2])
    shutil.copy(run / "weights" / f"{other}.pt", run / "weights" / f"{number}.pt")
    said = autoprune.refused("apply", run, "--trial", number, "--output", "a.pt")
    assert f"holds other widths than trial {number} has; remove it" in said
    monkeypatch.setattr(
        "autoprune.running.apply.pruned_model.measure_costs", lambda *_: {"flops": 7, "params": 7, "size": 7}
    )
    outcome = autoprune("apply", digits_run.folder, "--output", "a.pt")
    assert outcome.code == 1
    assert "a.pt was written, but it is not what the search scored: it counts 7 flops instead of " in outcome.err


def test_what_is_there_is_not_written_over_unasked(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    Path("a.pt").write_text("precious")
    Path("b.onnx").write_text("precious")
    named = ("apply", digits_run.folder, "--output")
    assert "a.pt exists already; choose another --output" in autoprune.refused(*named, "a.pt")
    assert "b.onnx exists already" in autoprune.refused(*named, "b.pt", "--export", "onnx")
    assert "--export pt2 writes c.pt2 itself" in autoprune.refused(*named, "c.pt2", "--export", "pt2")
    assert Path("a.pt").read_text() == "precious"
    autoprune.succeed(*named, "a.pt", "--overwrite")
    assert read("a.pt").widths


@pytest.mark.parametrize("source", rest_slow(["run", "best.yaml"]))
def test_fine_tuning_makes_it_better_and_is_measured_afterwards(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, source: str
) -> None:
    path = digits_run.folder if source == "run" else digits_run.folder / "best.yaml"
    autoprune.succeed("apply", path, "--output", "before.pt")
    out = autoprune.succeed("apply", path, "--finetune", "epochs=3,rate=0.02,batch_size=64", "--output", "after.pt").out
    assert "fine-tuned (epochs=3.0 rate=0.02 batch_size=64)" in out
    before, after = (json.loads(autoprune.succeed("evaluate", f, "--json").out) for f in ("before.pt", "after.pt"))
    assert after["loss"] < before["loss"]
    assert after["flops"] == before["flops"]
    assert read("after.pt").metrics == {**after["metrics"], "loss": after["loss"], "samples": 400}
    assert read("after.pt").widths == read("before.pt").widths


@pytest.mark.parametrize("source", rest_slow(["best.yaml", "run"]))
def test_fine_tuning_can_be_distilled_by_the_dense_network(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, source: str
) -> None:
    path = digits_run.folder if source == "run" else digits_run.folder / "best.yaml"
    task = DigitsTask()
    dense = task.network()
    task.load(dense, None)
    dense.eval()

    samples = next(iter(task.batches("validation", 400)))[0]

    def divergence(file: str) -> float:
        with torch.no_grad():
            ours, theirs = (F.log_softmax(network(samples), dim=1) for network in (load(file), dense))
        return float(F.kl_div(ours, theirs, reduction="batchmean", log_target=True))

    plain = "epochs=6,rate=0.01,batch_size=64"
    autoprune.succeed("apply", path, "--finetune", plain, "--output", "alone.pt")
    distilled = f"{plain},distill=3,temperature=3"
    out = autoprune.succeed("apply", path, "--finetune", distilled, "--output", "distilled.pt").out
    assert "distill=3.0 temperature=3.0" in out
    assert divergence("distilled.pt") < 0.7 * divergence("alone.pt")


@pytest.mark.parametrize("source", rest_slow(["best.yaml", "run"]))
def test_reconstruction_makes_it_better_without_training(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, source: str
) -> None:
    path = digits_run.folder if source == "run" else digits_run.folder / "best.yaml"
    number = [] if source == "best.yaml" else ["--trial", "0"]
    autoprune.succeed("apply", path, *number, "--output", "before.pt")
    out = autoprune.succeed("apply", path, *number, "--reconstruct", 512, "--output", "after.pt").out
    assert "pruned anew, reconstructed on 512 training samples" in out
    assert " in the search)" in out
    before, after = (json.loads(autoprune.succeed("evaluate", f, "--json").out) for f in ("before.pt", "after.pt"))
    assert after["loss"] < before["loss"]
    assert read("after.pt").widths == read("before.pt").widths
    autoprune.succeed(
        *("apply", digits_run.folder / "best.yaml", "--output", "set.pt", "--set", "evaluation.reconstruct=512")
    )
    if source == "best.yaml":
        assert torch.equal(load("set.pt")(IMAGES), load("after.pt")(IMAGES))
    both = autoprune.succeed("apply", path, "--reconstruct", "70", "--finetune", "steps=3", "--output", "tuned.pt").out
    assert "reconstructed on 70 training samples, fine-tuned (steps=3 rate=0.02)" in both


def test_a_reconstruction_that_cannot_be_is_refused(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    for samples in ("0", "-3", "1.5", "some"):
        said = autoprune.refused("apply", digits_run.folder, "--output", "p.pt", f"--reconstruct={samples}")
        assert f"--reconstruct: takes a number of training samples, 512 say, not '{samples}'" in said
    assert "not 'masked'" in autoprune.refused("apply", "--reconstruct", "masked", "--output", "p.pt")
    autoprune.succeed(*SEARCH, "--trials", "1", "--pattern", "element", "--output", "masked")
    assert "removes none" in autoprune.refused("apply", "masked", "--reconstruct", "9", "--output", "p.pt")
    assert not Path("p.pt").exists()


def test_a_setting_that_a_runs_trials_take_no_notice_of_is_refused(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    for setting in ("evaluation.reconstruct=true", "scoring.criterion=l2", "evaluation.finetune.steps=3"):
        said = autoprune.refused("apply", digits_run.folder, "--output", "p.pt", "--set", setting)
        assert f"--set {setting.partition('=')[0]} changes nothing here" in said
        assert "--reconstruct" in said
        assert "best.yaml" in said


@pytest.mark.parametrize("form", rest_slow(["onnx", "pt2"]))
def test_apply_exports(autoprune: Cli, workdir: Path, digits_run: DigitsRun, form: str) -> None:
    outcome = autoprune.succeed("apply", digits_run.folder, "--output", "p.pt", "--export", form)
    assert f"p.{form}: the same network" in outcome.out
    assert sorted(path.name for path in workdir.iterdir()) == sorted(["p.pt", f"p.{form}"])


def test_what_cannot_be_exported_is_written_all_the_same(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("too clever\nfor export")

    monkeypatch.setattr("torch.export.export", refuse)
    said = autoprune.refused("apply", digits_run.folder, "--output", "p.pt", "--export", "pt2")
    assert said == "p.pt is written, but the network cannot be exported as pt2: too clever for export\n"
    assert left_behind(workdir) == ["p.pt"]


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
        assert report["metrics"]["accuracy"] == row[split]["metrics"]["accuracy"]
        assert report["loss"] == pytest.approx(row[split]["loss"], rel=1e-6)
        assert {kind: report[kind] for kind in row["costs"]} == row["costs"]
    report = json.loads(autoprune.succeed("evaluate", "dense.pt", "--split", "all", "--json").out)
    assert report["samples"] == 797


def test_a_users_own_network_goes_the_whole_way(autoprune: Cli, workdir: Path) -> None:
    named = ("--task", "tests.user_tasks:task")
    autoprune.succeed(*OWN, *named, "--output", "run")
    autoprune.succeed("apply", "run", "--output", "p.pt")
    report = json.loads(autoprune.succeed("evaluate", "p.pt", *named, "--json").out)
    metrics = read("p.pt").metrics
    assert report["metrics"]["accuracy"] == metrics["accuracy"]
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


def test_a_width_of_0_removes_the_branch_from_best_yaml_and_the_file_knows(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    best = yaml.safe_load((digits_run.folder / "best.yaml").read_text())
    best["widths"]["stage2.conv1"] = 0
    Path("short.yaml").write_text(yaml.safe_dump(best), encoding="utf-8")
    autoprune.succeed("apply", "short.yaml", "--output", "p.pt")
    checkpoint = read("p.pt")
    assert checkpoint.shapes[0].removed == ("stage2.conv1",)
    assert checkpoint.widths["stage2.conv1"] == 0
    assert not any(name.startswith("stage2.conv1") for name in checkpoint.state_dict)
    assert load("p.pt")(IMAGES).shape == (4, 10)


def _accuracy(best: Mapping[str, Mapping[str, float]]) -> str:
    return f"{100 * best['metrics']['accuracy']:.2f} %"
