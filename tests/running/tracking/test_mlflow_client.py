"""The mirror in MLflow: what it shows, and that its trouble is never the search's."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run

from autoprune.evaluation.checkpoints.checkpoint import load, read_checkpoint
from tests.journeys import HALF, TINY, Cli, DigitsRun, fresh_process, history_of, search_in_child
from tests.running.test_resuming import dying

OFFLINE = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def runs(store: str) -> tuple[Run, list[Run]]:
    """The parent, and its children by number."""
    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("autoprune")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, sorted(children, key=lambda run: int(run.data.tags["autoprune.number"]))


def test_the_parent_shows_the_winner_and_holds_the_files(digits_run: DigitsRun) -> None:
    parent, children = runs(digits_run.store)
    best = yaml.safe_load((digits_run.folder / "best.yaml").read_text())
    metrics = parent.data.metrics
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "run"
    assert metrics["accuracy"] == best["metrics"]["accuracy"]
    assert metrics["test_accuracy"] == best["test"]["accuracy"]
    assert metrics["flops"] == best["costs"]["flops"]
    assert metrics["flops_kept"] == best["costs"]["flops"] / metrics["dense_flops"] <= 0.5
    assert {"loss", "params", "params_kept", "latency_ms", "seconds", "dense_accuracy", "uniform_accuracy"} <= set(
        metrics
    )
    assert metrics["trials"] == len(children) == 4
    assert parent.data.tags["autoprune.best_trial"] == str(best["trial"])
    assert parent.data.tags["autoprune.budget"] == "flops=0.5"
    assert {"searcher": "auto", "pruner": "l1_filter", "budget": "flops=0.5", "seed": "0"}.items() <= (
        parent.data.params.items()
    )
    artifacts = {item.path for item in MlflowClient(digits_run.store).list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "results.csv", "frontier.png", "sensitivity.png", "experiment.yaml", "weights"} <= artifacts


def test_each_child_is_a_trial_of_the_ledger(digits_run: DigitsRun) -> None:
    _, children = runs(digits_run.store)
    for child, trial in zip(children, history_of(digits_run.folder).trials(), strict=True):
        assert trial.score is not None
        assert child.info.run_name == str(trial.number)
        assert child.info.status == "FINISHED"
        metrics = child.data.metrics
        assert (metrics["accuracy"], metrics["loss"]) == (trial.score.metrics["accuracy"], trial.score.loss)
        assert {kind: metrics[kind] for kind in trial.costs} == trial.costs
        assert {"flops_kept", "params_kept", "seconds"} <= set(metrics)
        keep = {name[5:]: int(text) for name, text in child.data.params.items() if name.startswith("keep.")}
        assert keep == trial.candidate.allocation.to_json()
        assert child.data.params["recipe"] == "recalibrate=512 augment=True"
        assert {"searcher", "pruner", "settings"} <= set(child.data.params)
        tags = child.data.tags
        assert (tags["autoprune.state"], tags["autoprune.budget"]) == ("scored", "flops=0.5")


def test_what_is_applied_evaluates_to_what_the_mirror_shows(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    """The trials were judged on 100 samples, so the winner's own accuracy on all of them is the parent's."""
    parent, _ = runs(digits_run.store)
    autoprune.succeed("apply", digits_run.folder, "--output", "p.pt")
    assert f"accuracy    {100 * parent.data.metrics['accuracy']:.2f} %" in autoprune.succeed("evaluate", "p.pt").out
    test = autoprune.succeed("evaluate", "p.pt", "--split", "test").out
    assert f"accuracy    {100 * parent.data.metrics['test_accuracy']:.2f} %" in test


def test_a_child_evaluated_on_all_samples_is_what_evaluate_says(autoprune: Cli, workdir: Path) -> None:
    small = ("--trials", "2", "--set", "sensitivity.levels=1", "--set", "sensitivity.samples=100")
    small = (*small, "--set", "track.model=false")
    autoprune.succeed("search", *HALF, *small, "--output", "run")
    _, children = runs(f"sqlite:///{workdir / 'mlflow.db'}")
    for child in children:
        number = int(child.info.run_name)
        autoprune.succeed("apply", f"mlflow:{child.info.run_id}", "--output", "p.pt", "--overwrite")
        checkpoint = read_checkpoint(Path("p.pt"))
        assert checkpoint is not None
        assert checkpoint.metrics["accuracy"] == child.data.metrics["accuracy"]
        out = autoprune.succeed("evaluate", "p.pt").out
        assert f"accuracy    {100 * child.data.metrics['accuracy']:.2f} %" in out
        assert history_of(Path("run")).trials()[number].candidate.allocation == checkpoint.widths


def test_mlflow_ids_name_runs_and_trials(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, children = runs(digits_run.store)
    best = int(parent.data.tags["autoprune.best_trial"])
    for run, number in ((parent, best), (children[0], 0)):
        out = autoprune.succeed(
            "apply", f"mlflow:{run.info.run_id}", "--tracking-uri", digits_run.store, "--output", f"{number}.pt"
        ).out
        assert f"trial {number} of" in out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", digits_run.store)
    named = ("apply", f"mlflow:{parent.info.run_id}", "--trial", 2, "--output", "other.pt")
    assert "trial 2 of" in autoprune.succeed(*named).out


def test_ids_that_name_no_search_that_is_here_are_refused(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(digits_run.home / "mlflow.db", workdir)
    client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)

    def said(run_id: str) -> str:
        return autoprune.refused("apply", f"mlflow:{run_id}", "--output", "p.pt")

    assert "mlflow:0123: no such run in sqlite:///" in said("0123")
    assert "no such run" in said("")
    parent, children = runs(client.tracking_uri)
    experiment = parent.info.experiment_id
    for tags in (
        {},
        {"mlflow.parentRunId": parent.info.run_id},
        {"autoprune.role": "training", "autoprune.folder": "x"},
    ):
        stranger = client.create_run(experiment, tags=tags).info.run_id
        assert f"mlflow:{stranger} is no search of autoprune; give the id of a run" in said(stranger)
        client.delete_run(stranger)
    moved = digits_run.copy(workdir)
    client.set_tag(parent.info.run_id, "autoprune.folder", str(workdir / "gone"))
    for run in (parent, children[0]):
        assert "gone, which is not there (any more); give the folder itself" in said(run.info.run_id)
    ledger = moved / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"time": 1', '"time": 2', 1))
    client.set_tag(parent.info.run_id, "autoprune.folder", str(moved))
    assert "run, which is not there (any more)" in said(parent.info.run_id)  # another run is


def test_a_store_that_does_not_answer_is_no_fault_of_the_id(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    named = ("apply", "mlflow:0123", "--tracking-uri", "http://me:secret@127.0.0.1:9", "--output", "p.pt")
    said = autoprune.refused(*named, code=1)
    assert "the MLflow store http://***@127.0.0.1:9 does not answer (" in said
    assert "or give the run's folder" in said
    assert "secret" not in said
    assert len(said) < 400


@pytest.mark.slow
def test_the_tracking_uri_of_the_environment_is_honoured_and_resuming_adds_no_duplicates(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workdir / 'other.db'}")
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    command = ("search", *HALF, *TINY, "--output", "run")
    assert search_in_child(*command, before=dying("told", 3)) == -signal.SIGKILL
    assert not (workdir / "mlflow.db").exists()
    parents = []
    for _ in range(2):
        autoprune.succeed("search", "--resume", "run")
        parent, children = runs(os.environ["MLFLOW_TRACKING_URI"])
        parents.append(parent.info.run_id)
        assert [child.info.run_name for child in children] == ["0", "1", "2", "3"]
    assert parents[0] == parents[1]
    history = MlflowClient().get_metric_history(parent.info.run_id, "accuracy")
    assert len(history) == 1


def test_a_store_that_fails_does_not_stop_the_search_and_is_brought_up_to_date_on_resume(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, calls = MlflowClient.log_batch, 0

    def failing(self: MlflowClient, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 3:  # the parent's two and the first child's go well; the second child is left half written
            raise OSError("the store is gone")
        return log(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", failing)
        outcome = autoprune.succeed("search", *HALF, *TINY, "--output", "run")
    assert outcome.err.count("MLflow cannot be written") == 1
    assert "best (trial" in outcome.out
    autoprune.succeed("search", "--resume", "run")
    parent, children = runs(f"sqlite:///{workdir / 'mlflow.db'}")
    assert parent.info.status == "FINISHED"
    assert [child.info.run_name for child in children] == ["0", "1", "2", "3"]
    assert all("accuracy" in child.data.metrics for child in children)
    assert not parent.outputs.model_outputs  # none is wanted there


def test_a_store_that_cannot_be_opened_only_warns(autoprune: Cli, workdir: Path) -> None:
    outcome = autoprune.succeed("search", *HALF, *TINY, "--tracking-uri", "nonsense://here")
    assert outcome.err.count("MLflow cannot be written") == 1


@pytest.mark.slow
def test_without_tracking_mlflow_is_never_imported_and_nothing_is_left(workdir: Path) -> None:
    arguments = ["search", *HALF, *TINY, "--set", "track.enabled=false", "--output", "run"]
    program = (
        f"import sys; from autoprune.cli import main; assert main({arguments!r}) == 0; print('mlflow' in sys.modules)"
    )
    assert fresh_process(program, workdir).splitlines()[-1] == "False"
    assert sorted(path.name for path in workdir.iterdir()) == ["run"]


@pytest.mark.slow
def test_telemetry_is_off_before_mlflow_is_imported(workdir: Path) -> None:
    program = (
        "import os; from autoprune.running.tracking.mlflow_client import connect; connect('sqlite:///x.db');"
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], os.environ['MLFLOW_SERVER_ENABLE_JOB_EXECUTION'])"
    )
    assert fresh_process(program, workdir).split() == ["true", "false"]


def test_pruned_artifact_is_the_best_trials_network(digits_run: DigitsRun, tmp_path: Path) -> None:
    parent, _ = runs(digits_run.store)
    best = parent.data.tags["autoprune.best_trial"]
    path = MlflowClient(digits_run.store).download_artifacts(parent.info.run_id, f"weights/{best}.pt", str(tmp_path))
    assert load(path).training is False


def logged_model(store: str) -> LoggedModel:
    """The one model that the parent run has."""
    parent, _ = runs(store)
    assert parent.info.status == "FINISHED"
    (output,) = parent.outputs.model_outputs
    (found,) = MlflowClient(store).search_logged_models([parent.info.experiment_id])
    assert found.model_id == output.model_id
    return MlflowClient(store).get_logged_model(output.model_id)


def test_the_best_network_is_logged_as_a_model_that_runs_without_its_class(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun
) -> None:
    model = logged_model(digits_run.store)
    best = yaml.safe_load((digits_run.folder / "best.yaml").read_text())["trial"]
    assert (model.name, model.status, model.tags["autoprune.trial"]) == ("pruned", "READY", str(best))
    described = yaml.safe_load((Path(model.artifact_location) / "MLmodel").read_text())
    assert described["model_id"] == model.model_id
    assert described["saved_input_example_info"]["artifact_path"]
    assert [json.loads(described["signature"][each])[0]["tensor-spec"]["shape"] for each in ("inputs", "outputs")] == [
        [-1, 1, 8, 8],
        [-1, 10],
    ]
    samples = torch.rand(5, 1, 8, 8)
    wanted = load(digits_run.folder / "weights" / f"{best}.pt")(samples)
    program = (
        "import sys, torch, mlflow.pytorch\n"
        f"mlflow.set_tracking_uri({digits_run.store!r})\n"
        f"network = mlflow.pytorch.load_model('models:/{model.model_id}')\n"
        f"found = network(torch.tensor({samples.tolist()!r}))\n"
        "print('autoprune' in sys.modules, found.tolist())"
    )
    known, _, found = fresh_process(program, workdir, OFFLINE).splitlines()[-1].partition(" ")
    assert known == "False"
    torch.testing.assert_close(torch.tensor(json.loads(found)), wanted)


@pytest.mark.slow
def test_a_users_own_network_is_logged_once_and_what_goes_wrong_with_it_costs_one_line(
    autoprune: Cli, workdir: Path
) -> None:
    store = f"sqlite:///{workdir / 'mlflow.db'}"
    command = ("search", "--budget", "flops=0.6", "--trials", "2", "--searcher", "random", "--output", "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.export.export", broken)
        outcome = autoprune.succeed(*command, "--task", "tests.user_tasks:task")
    assert [line for line in outcome.err.splitlines() if "MLflow" in line] == [
        "autoprune: the best network is not logged as a model of MLflow, all else is (ValueError: too clever for "
        "export); autoprune track run tries again, --set track.model=false leaves it out"
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", broken)
        assert autoprune.succeed("track", "run").err.count("not logged as a model of MLflow") == 1
    parent, children = runs(store)
    assert (parent.info.status, len(children)) == ("FINISHED", 2)
    assert not parent.outputs.model_outputs
    assert list(MlflowClient(store).search_logged_models([parent.info.experiment_id])) == []  # nor a half of one
    autoprune.succeed("track", "run")
    first = logged_model(store).model_id
    for command in (("track", "run"), ("search", "--resume", "run")):
        autoprune.succeed(*command)
        assert logged_model(store).model_id == first


def broken(*_: object, **__: object) -> None:
    raise ValueError("too clever\nfor export")


def test_a_ledger_says_how_it_was_made_without_credentials(autoprune: Cli, workdir: Path) -> None:
    uri = "https://somebody:secret@127.0.0.1:9/x"
    autoprune("search", *HALF, *TINY, "--tracking-uri", uri, "--set", "track.enabled=false", "--output", "run")
    (started,) = history_of(workdir / "run").of("started")
    assert started["command"][:4] == ["autoprune", "search", "--budget", "flops=0.5"]
    assert started["settings"]["track"]["uri"] == "https://***@127.0.0.1:9/x"
    assert started["environment"]["torch"]
    assert set(started["groups"]) == set(history_of(workdir / "run").trials()[0].candidate.allocation)
    assert "secret" not in (workdir / "run" / "ledger.jsonl").read_text()
