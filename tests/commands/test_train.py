"""`autoprune train`: every example runs, and what is killed goes on to the same end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

import autoprune as package
from autoprune.core.ledger import Ledger, read_records
from autoprune.tasks.training import snapshot as snapshots
from tests.journeys import UNTRACKED, Cli, in_child, left_behind
from tests.repository import REPOSITORY
from tests.running.test_resuming import dying
from tests.tiers import rest_slow

EXAMPLES = REPOSITORY / "experiments" / "schedules"
GRADUAL = """
train: {epochs: 3, rate: 0.02, batch_size: 128}
pruners: {weights: {pruner: agp, sparsity: 0.8}, filters: {pruner: l1_filter, layers: [stage1.conv1], sparsity: 0.5}}
policies:
  - {pruner: weights, start: 0, end: 2}
  - {pruner: filters, epochs: [1]}
  - {thin: true, epochs: [2]}
"""
TICKET = """
train: {steps: 6, rate: 0.02, batch_size: 128}
pruners: {weights: {pruner: lottery_ticket, sparsity: 0.8}}
rounds: {count: 2, rewind: 2}
"""


def _schedule(text: str = GRADUAL) -> str:
    Path("schedule.yaml").write_text(text)
    return "schedule.yaml"


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "final.pt", weights_only=True)["state_dict"]
    return state


# What of the examples is changed so that it fits the digits' network, and takes a second.
SHORT = (
    ("batch_size: 128", "batch_size: 256"),
    ("epochs: 12", "epochs: 8"),
    ("epochs: 10", "epochs: 6"),
    ("steps: 1200", "steps: 12"),
    ("steps: [300]", "steps: [6]"),
    ("end: 300", "end: 6"),
    ("threshold_every: 50", "threshold_every: 3"),
    ('"layer3.[12].conv*", "layer2.2.conv*"', '"stage*.conv*"'),
    ('"layer1.*.conv1"', '"stage1.conv1"'),
    ("frequency: 150", "frequency: 5"),
)


@pytest.mark.parametrize("path", rest_slow(sorted(EXAMPLES.glob("*.yaml")), kept=1), ids=lambda path: path.stem)
def test_every_example_trains_a_network_that_loads(autoprune: Cli, workdir: Path, path: Path) -> None:
    text = path.read_text()
    for long, short in SHORT:
        text = text.replace(long, short)
    scratch = ["--scratch"] if path.stem == "lottery_ticket" else []
    out = autoprune.succeed("train", "--schedule", _schedule(text), "--output", "run", *scratch, *UNTRACKED).out
    assert out.startswith("network")
    assert "autoprune evaluate run/final.pt --task digits --split test" in out
    network = package.load("run/final.pt")
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    report = json.loads(autoprune.succeed("evaluate", "run/final.pt", "--json").out)
    finished = read_records(workdir / "run" / "training.jsonl")[-1]
    assert report["metrics"]["accuracy"] == pytest.approx(finished["accuracy"])
    assert report["flops"] == finished["flops"]


def test_the_folder_holds_all_that_is_needed_to_go_on(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed("train", "--schedule", _schedule(), "--output", "run", *UNTRACKED)
    names = ["experiment.yaml", "final.pt", "schedule.yaml", "snapshot.pt", "training.jsonl", "training.lock"]
    assert [name for name in left_behind(workdir / "run") if name in names] == sorted(
        set(names) & set(left_behind(workdir / "run"))
    )
    events = [record["event"] for record in read_records(workdir / "run" / "training.jsonl")]
    assert events == ["started", "epoch", "epoch", "thinned", "epoch", "final", "finished"]


def _killed_at_snapshot(count: int) -> Callable[[], None]:
    """Makes a process kill itself after it wrote a snapshot for the count-th time."""

    def patch() -> None:
        from autoprune.running import training

        seen = 0

        def write_and_die(path: Path, snapshot: snapshots.Snapshot) -> None:
            nonlocal seen
            snapshots.write_snapshot(path, snapshot)
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

        training.write_snapshot = write_and_die  # type: ignore[attr-defined]

    return patch


@pytest.mark.parametrize("text", rest_slow([TICKET, GRADUAL]), ids=["ticket", "gradual"])
def test_killed_anywhere_it_goes_on_to_the_same_weights(autoprune: Cli, workdir: Path, text: str) -> None:
    command = ["train", "--schedule", _schedule(text), *UNTRACKED]
    autoprune.succeed(*command, "--output", "whole")
    ends = (_killed_at_snapshot(1), _killed_at_snapshot(3), dying("final", 1), dying("finished", 1))
    for number, die in enumerate(ends):
        folder = f"broken{number}"

        def action(die: Callable[[], None] = die, folder: str = folder) -> int:
            die()
            from autoprune.cli import main

            return main([*command, "--output", folder])

        assert in_child(action) == -signal.SIGKILL
        assert "accuracy" in autoprune.succeed("train", "--resume", folder).out
        expected, found = _weights(workdir / "whole"), _weights(workdir / folder)
        assert list(found) == list(expected)
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.slow
def test_training_from_scratch_goes_on_from_the_weights_it_started_with(autoprune: Cli, workdir: Path) -> None:
    command = ["train", "--schedule", _schedule(TICKET), "--scratch", "--seed", "3", *UNTRACKED]
    autoprune.succeed(*command, "--output", "whole")

    def action() -> int:
        _killed_at_snapshot(3)()
        from autoprune.cli import main

        return main([*command, "--output", "broken"])

    assert in_child(action) == -signal.SIGKILL
    autoprune.succeed("train", "--resume", "broken")
    expected, found = _weights(workdir / "whole"), _weights(workdir / "broken")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    other = autoprune.succeed(*[part if part != "3" else "4" for part in command], "--output", "other")
    assert other.out
    assert not torch.equal(_weights(workdir / "other")["conv.weight"], expected["conv.weight"])


def test_curves_are_mirrored_in_mlflow(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed("train", "--schedule", _schedule(), "--output", "run")
    client = MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("autoprune")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.rate"] == "0.02"
    assert "criterion=magnitude" in run.data.params["pruner.weights"]
    curve = client.get_metric_history(run.info.run_id, "accuracy")
    assert [point.step for point in curve][:3] == [1, 2, 3]
    assert {"training_loss", "zeros", "sparsity.weights", "final_test_accuracy"} <= set(run.data.metrics)


def test_an_interrupt_says_how_to_go_on(autoprune: Cli, workdir: Path) -> None:
    write = Ledger.write

    def interrupt(self: Ledger, name: str, /, **fields: object) -> None:
        write(self, name, **fields)
        if name == "epoch":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "write", interrupt)
        outcome = autoprune("train", "--schedule", _schedule(), "--output", "my run", *UNTRACKED)
    assert outcome.code == 1
    assert "interrupted; continue with: autoprune train --resume 'my run'" in outcome.err
    autoprune.succeed("train", "--resume", "my run")


def test_wrong_input_is_refused_and_leaves_nothing(autoprune: Cli, workdir: Path) -> None:
    fine = _schedule()
    assert "--schedule is needed" in autoprune.refused("train")
    assert "none.yaml" in autoprune.refused("train", "--schedule", "none.yaml")
    assert "matches no group" in autoprune.refused(
        "train", "--schedule", _schedule(GRADUAL.replace("stage1.conv1", "layer1.conv1"))
    )
    _schedule("train: {epochs: 1}\ndistill: {}\n")
    assert "an untrained network teaches nothing" in autoprune.refused("train", "--schedule", fine, "--scratch")
    both = ("--schedule", _schedule(), "--scratch", "--checkpoint", fine)
    assert "leave one of them out" in autoprune.refused("train", *both)
    assert "is no run of autoprune" in autoprune.refused("train", "--resume", "nowhere")
    assert "did you mean '--schedule'" in autoprune.refused("train", "--schedul", fine)
    assert not (workdir / "runs").exists()
    autoprune.succeed("train", "--schedule", _schedule("train: {steps: 2}\n"), "--output", "run", *UNTRACKED)
    assert "leave out 0.5" in autoprune.refused("train", "--resume", "run", "--output", "0.5")
    assert "already holds a run" in autoprune.refused("train", "--schedule", fine, "--output", "run")
    message = autoprune.refused("train", "--resume", _search_folder(workdir))
    assert "holds the run of another command: it has no training.jsonl" in message


def _search_folder(workdir: Path) -> Path:
    """A folder that holds an experiment, as a search leaves it."""
    folder = workdir / "searched"
    folder.mkdir()
    (folder / "experiment.yaml").write_text((workdir / "run" / "experiment.yaml").read_text())
    return folder
