"""What bad input gets: one message, exit code 2, no traceback, nothing left behind."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from autoprune.evaluation.evaluator import Evaluator
from autoprune.tasks.models.cifar_resnet import resnet20
from autoprune.tasks.models.digits_resnet import digits_resnet
from tests.journeys import OWN, SEARCH, UNTRACKED, Cli, DigitsRun, left_behind


@pytest.fixture(autouse=True)
def _no_evaluation(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Nothing is judged before the input is known to be good."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was evaluated")

    if "evaluates" not in request.keywords:
        monkeypatch.setattr(Evaluator, "evaluate_network", refuse)
        monkeypatch.setattr("autoprune.commands.search._report", refuse)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["search", "--budget", "flops=0.5", "--task", "digit"], "did you mean 'digits'?"),
        (["search", "--budget", "flops=0.5", "--searcher", "tpee"], "did you mean 'tpe'?"),
        (["search", "--budget", "flops=0.5", "--pruner", "l1_filtre"], "did you mean 'l1_filter'?"),
        (["search", "--budget", "flops=0.5", "--model", "digits_resnets"], "did you mean 'digits_resnet'?"),
        (["search", "--budget", "flops=0.5", "--trails", "4"], "did you mean '--trials'?"),
        (["search", "--budget=flops=0.5", "--trails=4"], "did you mean '--trials'?"),
        (["serch"], "did you mean 'search'?"),
        (["list", "searcher"], "did you mean 'searchers'?"),
        (["search"], "--budget is needed, for example --budget flops=0.5"),
        ([], "COMMAND"),
        (["search", "--budget"], "expected one argument"),
        (["search", "--budget", "flops=0"], "above 0 and at most 1"),
        (["search", "--budget", "flops=1.5"], "above 0 and at most 1"),
        (["search", "--budget", "flops=-1"], "above 0 and at most 1"),
        (["search", "--budget", "flops=abc"], "'abc' is not a number"),
        (["search", "--budget", "flops=nan"], "'nan' is not a number"),
        (["search", "--budget", "watts=1"], "unknown cost 'watts'"),
        (["search", "--budget", ""], "the budget is empty"),
        (["search", "--budget", "flops=0.5,flops=0.6"], "twice"),
        (["search", "--budget", "flops=20Q"], "unknown unit 'Q'"),
        ([*SEARCH, "--trials", "0"], "--trials: should be at least 1"),
        ([*SEARCH, "--trials", "many"], "--trials: should be a whole number but is 'many'"),
        ([*SEARCH, "--seed", "-1"], "--seed: should be at least 0"),
        *(
            ([*SEARCH, f"--seed={text}"], "--seed: should be a whole number")
            for text in ("--5", "²", "1_0", "9" * 5000)
        ),
        ([*SEARCH, "--set", "evaluation.sample=1"], "did you mean 'samples'?"),
        ([*SEARCH, "--set", "nonsense"], "should read KEY=VALUE"),
        ([*SEARCH, "--device", "gpu"], "--device: should be one of auto, cpu, cuda"),
        ([*SEARCH, "--checkpoint", "missing.pt"], "no such file or folder: missing.pt"),
        ([*SEARCH, "--data", "missing"], "missing"),
        ([*SEARCH, "--data", "."], "takes no --data"),
        ([*SEARCH, "--space", "missing.yaml"], "missing.yaml"),
        ([*SEARCH, "--model", "resnet20"], "does not fit task 'digits'"),
        ([*SEARCH, "--task", "cifar10"], "needs --data"),
        ([*SEARCH, "missing.yaml"], "missing.yaml"),
        ([*SEARCH, "one.yaml", "two.yaml"], "two.yaml"),
        ([*SEARCH, "--resume", "missing"], "leave out"),
        (["search", "--resume", "missing"], "missing is no run of autoprune"),
        (["search", "--resume", "."], "is no run of autoprune"),
        (["apply", "run"], "--output"),
        (["apply", "missing", "--output", "p.pt"], "no such run or file: missing"),
        (["apply", ".", "--output", "p.pt"], "is no run of autoprune"),
        (["apply", "missing", "--output", "p.pt", "--finetune", "epoch=1"], "epoch: unknown key"),
        (["apply", "missing", "--output", "p.pt", "--finetune", "epochs=x"], "epochs: should be a number but is 'x'"),
        (["apply", "missing", "--output", "p.pt", "--finetune", "epochs=nan"], "epochs"),
        (["apply", "missing", "--output", "p.pt", "--finetune", "rate=-1"], "rate: should be"),
        (["apply", "missing", "--output", "p.pt", "--finetune", "batch_size=0"], "batch_size: should be"),
        (["apply", "missing", "--output", "p.pt", "--finetune", ""], "unknown key"),
        (["apply", "missing", "--output", "p.pt", "--export", "onx"], "did you mean 'onnx'?"),
        (["apply", "missing", "--output", ".", "--trial", "1"], "is a folder; --output names the file"),
        (["apply", "mlflow:0123", "--output", "p.pt"], "mlflow"),
        (["evaluate", "missing.pt"], "missing.pt"),
        (["evaluate", "."], "."),
        (["evaluate", "missing.pt", "--split", "tests"], "did you mean 'test'?"),
        (["ui"], "there is no MLflow store"),
        (["ui", "missing"], "is no run of autoprune"),
        (["ui", "--port", "99999"], "--port"),
        (["inspect", "--task", "digit"], "did you mean 'digits'?"),
        (["inspect", "--space", "missing.yaml"], "missing.yaml"),
        (["sensitivity", "--set", "sensitivity.levels=0"], "should be at least 1"),
    ],
    ids=lambda value: " ".join(value).replace(" ".join(SEARCH), "SEARCH") if isinstance(value, list) else "",
)
def test_bad_arguments_get_one_message_and_leave_nothing(
    autoprune: Cli, workdir: Path, arguments: list[str], expected: str
) -> None:
    assert expected in autoprune.refused(*arguments)
    assert left_behind(workdir) == []


def test_a_budget_below_the_space_names_the_least_that_can_be_reached_before_any_evaluation(
    autoprune: Cli, workdir: Path
) -> None:
    message = autoprune.refused("search", "--budget", "flops=0.01", *UNTRACKED)
    assert "cannot be met" in message
    assert "search_spaces/filters.yaml" in message
    least = message.partition("at its narrowest ")[2].split()[0].replace(",", "")
    fraction = int(least) / 1_527_040
    assert f"({fraction:.3f})" in message
    assert left_behind(workdir) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "budget: {flops: 0.5}\nserch: {trials: 3}\n",
            "experiment.yaml:2:1: serch: unknown key; did you mean 'search'?",
        ),
        (
            "budget: {flops: 0.5}\nsearch:\n  trials: many\n",
            "experiment.yaml:3:11: search.trials: should be a whole number",
        ),
        ("budget: {flops: 0.5}\nsearch:\n  trials: 3\n   seed: 1\n", "experiment.yaml:4:8:"),
        ("budget: {flops: 0.5}\nsearch:\n\ttrials: 3\n", "experiment.yaml:3:1:"),
        ("budget: {flops: 2}\n", "experiment.yaml:1:9: budget"),
        ("- budget\n", "should be a mapping"),
        ("budget: {flops: 0.5\n", "never closed"),
        ("budget: flops=0.5\nspace: {include: 3}\n", "experiment.yaml:2:18: space.include"),
    ],
)
def test_faults_in_yaml_are_reported_with_file_line_and_column(
    autoprune: Cli, workdir: Path, text: str, expected: str
) -> None:
    (workdir / "experiment.yaml").write_text(text)
    assert expected in autoprune.refused("search", "experiment.yaml", *UNTRACKED)
    assert left_behind(workdir) == ["experiment.yaml"]


def test_every_fault_is_reported_at_once(autoprune: Cli, workdir: Path) -> None:
    (workdir / "e.yaml").write_text("budgt: 1\nsearch: {trials: 0}\n")
    message = autoprune.refused("search", "e.yaml", "--searcher", "tp", "--set", "run.device=7")
    for part in ("e.yaml:1:1", "e.yaml:2:18", "--searcher", "--set run.device"):
        assert part in message


class Bomb:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


def test_a_checkpoint_that_would_execute_code_is_refused_and_does_not_run(autoprune: Cli, workdir: Path) -> None:
    torch.save({"state_dict": digits_resnet().state_dict(), "bomb": Bomb()}, "bomb.pt")
    (workdir / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    for name in ("bomb.pt", "bomb.pkl"):
        for command in ([*SEARCH, "--checkpoint", name], ["evaluate", name]):
            assert "refused" in autoprune.refused(*command)
    assert left_behind(workdir) == ["bomb.pkl", "bomb.pt"]


def test_a_truncated_checkpoint_is_named(autoprune: Cli, workdir: Path) -> None:
    torch.save(digits_resnet().state_dict(), "whole.pt")
    content = (workdir / "whole.pt").read_bytes()
    for length in (0, 100, len(content) // 2, len(content) - 10):
        (workdir / "cut.pt").write_bytes(content[:length])
        for command in ([*SEARCH, "--checkpoint", "cut.pt"], ["evaluate", "cut.pt"]):
            message = autoprune.refused(*command)
            assert "cut.pt" in message
            assert "truncated" in message or "not a checkpoint" in message
    assert left_behind(workdir) == ["cut.pt", "whole.pt"]


def test_a_checkpoint_of_another_network_says_what_does_not_fit(autoprune: Cli, workdir: Path) -> None:
    torch.save(resnet20().state_dict(), "other.pt")
    state = digits_resnet().state_dict()
    names = list(state)
    del state[names[0]]
    state["extra"] = torch.zeros(1)
    state[names[-1]] = torch.zeros(3)
    torch.save(state, "near.pt")
    assert "does not fit the network" in autoprune.refused(*SEARCH, "--checkpoint", "other.pt")
    message = autoprune.refused(*SEARCH, "--checkpoint", "near.pt")
    assert f"missing {names[0]}" in message or names[0] in message
    assert "extra" in message
    assert f"{names[-1]} [3] instead of [10]" in message
    assert left_behind(workdir) == ["near.pt", "other.pt"]


def test_missing_and_truncated_cifar_files_are_named(autoprune: Cli, workdir: Path) -> None:
    torch.save(resnet20().state_dict(), "w.pt")
    folder = workdir / "cifar-10-batches-bin"
    folder.mkdir()
    options = ("--task", "cifar10", "--data", str(folder), "--checkpoint", "w.pt")
    assert "holds no CIFAR-10" in autoprune.refused(*SEARCH, *options)
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(bytes(3073 * 10000))
    (folder / "test_batch.bin").write_bytes(bytes(3073 * 9999))
    message = autoprune.refused(*SEARCH, *options)
    assert "test_batch.bin" in message
    assert left_behind(workdir) == ["cifar-10-batches-bin", "w.pt"]


def test_an_output_folder_that_holds_a_run_is_refused(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    run = digits_run.copy(workdir)
    before = (run / "ledger.jsonl").read_bytes()
    message = autoprune.refused(*SEARCH, "--output", "run")
    assert "already holds a run" in message
    assert "--resume run" in message
    assert (run / "ledger.jsonl").read_bytes() == before


def test_an_output_that_cannot_be_a_folder_is_refused(autoprune: Cli, workdir: Path) -> None:
    (workdir / "file").write_text("")
    assert "is a file; --output names a folder" in autoprune.refused(*SEARCH, "--output", "file")
    assert "file" in autoprune.refused(*SEARCH, "--output", "file/run")
    assert "/proc" in autoprune.refused(*SEARCH, "--output", "/proc/run")
    assert "file" in autoprune.refused("sensitivity", "--output", "file")
    assert "/proc/x cannot be made" in autoprune.refused("sensitivity", "--output", "/proc/x")
    assert left_behind(workdir) == ["file"]


def test_resume_takes_no_other_settings(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    run = digits_run.copy(workdir)
    for option in (["--trials", "9"], ["--set", "search.seed=3"], ["--budget", "flops=0.4"], ["--output", "x"]):
        assert option[0].lstrip("-") in autoprune.refused("search", "--resume", run, *option) or "leave out" in (
            autoprune.refused("search", "--resume", run, *option)
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none_is_refused(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    run = digits_run.copy(workdir)
    for command in (list(SEARCH), ["inspect"], ["sensitivity"], ["evaluate", run / "weights" / "1.pt"]):
        assert "torch finds no CUDA device" in autoprune.refused(*command, "--device", "cuda")
    assert left_behind(workdir) == ["run"]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("no_such_module:task", "there is no module 'no_such_module'"),
        ("tests.user_tasks:tsk", "did you mean 'task'?"),
        ("tests.user_tasks:number", "should be a task"),
        ("tests.user_tasks:", "package.module:attribute"),
        ("raising:task", "ZeroDivisionError"),
        ("wrong:task", "SyntaxError"),
        ("tests.user_tasks:crashing", "no network today"),
    ],
)
def test_a_users_task_that_cannot_be_had_is_explained(autoprune: Cli, workdir: Path, task: str, expected: str) -> None:
    (workdir / "raising.py").write_text("task = 1 / 0\n")
    (workdir / "wrong.py").write_text("task = (\n")
    for command in (list(OWN), ["inspect"]):
        assert expected in autoprune.refused(*command, "--task", task)
    assert [name for name in left_behind(workdir) if name != "__pycache__"] == ["raising.py", "wrong.py"]


def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_written(autoprune: Cli, workdir: Path) -> None:
    for key in ("evaluation.finetune", "search.rerank", "search.rounds.admm"):
        command = (
            "search",
            "--task",
            "tests.user_tasks:task",
            "--device",
            "cpu",
            "--set",
            f"{key}={{steps: 2, precision: fp16}}",
        )
        assert "precision fp16 needs a GPU" in autoprune.refused(*command, "--budget", "flops=0.5", "--output", "run")
        assert not (workdir / "run").exists()


def test_a_forward_that_fails_is_told_with_its_own_error(autoprune: Cli, workdir: Path) -> None:
    message = autoprune.refused(*OWN, "--task", "tests.user_tasks:failing")
    assert "ValueError: no table for images of 8 pixels" in message
    assert message.count("\n") == 1
    assert left_behind(workdir) == []


def test_a_model_without_a_checkpoint_is_refused(autoprune: Cli, workdir: Path) -> None:
    assert "needs --checkpoint" in autoprune.refused(*SEARCH, "--model", "tests.user_tasks:tiny")
    assert left_behind(workdir) == []


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_in_use_is_named(autoprune: Cli, digits_run: DigitsRun, taken_port: int) -> None:
    message = autoprune.refused("ui", "--tracking-uri", digits_run.store, "--port", taken_port)
    assert f"127.0.0.1:{taken_port}" in message


def _best(digits_run: DigitsRun, **changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((digits_run.folder / "best.yaml").read_text()), **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"widths": {"conv": 0}}, "'conv' has 16 structures, not 0"),
        ({"widths": {"stage1.conv1": 17}}, "16"),
        ({"widths": {"stage9.conv1": 4}}, "stage9.conv1"),
        ({"widths": {"stage1.conv1": "four"}}, "whole number"),
        ({"widths": [1, 2]}, "widths should map"),
        ({"task": "digit"}, "did you mean 'digits'?"),
        ({"pruner": 3}, "pruner"),
        ({"recipe": {"recalibrate": "x"}}, "evaluation.recalibrate.samples: should be a whole number"),
        ({"recipe": 3}, "recipe"),
    ],
)
def test_a_best_yaml_that_does_not_fit_is_explained(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, changes: dict[str, Any], expected: str
) -> None:
    (workdir / "best.yaml").write_text(yaml.safe_dump(_best(digits_run, **changes)))
    message = autoprune.refused("apply", "best.yaml", "--output", "pruned.pt")
    assert expected in message
    assert left_behind(workdir) == ["best.yaml"]


def test_a_yaml_that_is_no_best_yaml_is_explained(autoprune: Cli, workdir: Path) -> None:
    for text, expected in (
        ("a: 1\n", "it lacks widths"),
        ("- 1\n", "is no best.yaml"),
        ("a: [\n", "cannot be read as YAML"),
    ):
        (workdir / "best.yaml").write_text(text)
        assert expected in autoprune.refused("apply", "best.yaml", "--output", "pruned.pt")
    (workdir / "best.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in autoprune.refused("apply", "best.yaml", "--output", "pruned.pt")
    assert left_behind(workdir) == ["best.yaml"]


def test_trials_that_cannot_be_applied_are_named(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    run = digits_run.copy(workdir)
    for number in (4, -1, 99):
        message = autoprune.refused("apply", run, "--trial", number, "--output", "pruned.pt")
        assert f"no finished trial {number}; it has 0 to 3" in message
    assert "--trial picks from a search's folder" in autoprune.refused(
        "apply", run / "best.yaml", "--trial", 1, "--output", "pruned.pt"
    )
    assert left_behind(workdir) == ["run"]


def test_apply_that_cannot_write_says_so(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    run = digits_run.copy(workdir)
    (workdir / "file").write_text("")
    assert "file" in autoprune.refused("apply", run, "--output", "file/pruned.pt")
    assert "/proc" in autoprune.refused("apply", run, "--output", "/proc/pruned.pt")


def test_a_file_that_is_no_checkpoint_is_refused_by_evaluate(autoprune: Cli, workdir: Path) -> None:
    (workdir / "text.pt").write_text("hello")
    torch.save([1, 2], "list.pt")
    torch.save({"autoprune": 2, "widths": {}}, "damaged.pt")
    torch.save({"autoprune": 99}, "newer.pt")
    assert "not a checkpoint" in autoprune.refused("evaluate", "text.pt")
    assert "list" in autoprune.refused("evaluate", "list.pt")
    assert "damaged" in autoprune.refused("evaluate", "damaged.pt")
    assert "format 99" in autoprune.refused("evaluate", "newer.pt")


@pytest.mark.parametrize("field", ["state_dict", "widths", "shapes", "masks", "first", "inputs", "metrics", "model"])
def test_a_pruned_checkpoint_with_a_field_of_another_type_is_damaged(
    autoprune: Cli, workdir: Path, digits_run: DigitsRun, field: str
) -> None:
    content = torch.load(digits_run.folder / "weights" / "1.pt", weights_only=True)
    torch.save({**content, field: 7}, "odd.pt")
    assert "odd.pt is damaged" in autoprune.refused("evaluate", "odd.pt")


def test_curves_of_another_network_are_refused(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    state = digits_resnet().state_dict()
    torch.save(state, "w.pt")
    curves = digits_run.folder / "sensitivity.json"
    message = autoprune.refused(*SEARCH, "--checkpoint", "w.pt", "--set", f"sensitivity.file={curves}")
    assert "measured with another checkpoint" in message
    (workdir / "none.json").write_text("{}")
    assert "holds no sensitivity curves" in autoprune.refused(*SEARCH, "--set", "sensitivity.file=none.json")
    assert left_behind(workdir) == ["none.json", "w.pt"]
