"""What is printed, and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import html
import json
import os
import pty
import re
import shlex
import sys
import threading
from pathlib import Path

import pytest
import yaml

from autoprune import registry
from autoprune.config.sections import TaskSection, typed_task
from autoprune.evaluation.checkpoints.checkpoint import load
from tests.journeys import OWN, SEARCH, UNTRACKED, Cli, DigitsRun, history_of, search_in_child


def test_a_search_prints_its_table_and_the_next_commands(autoprune: Cli, workdir: Path) -> None:
    outcome = autoprune.succeed(*SEARCH, "--output", "my run")
    lines = outcome.out.splitlines()
    assert lines[0].split()[:4] == ["network", "accuracy", "loss", "FLOPs"]
    assert lines[1].startswith("dense")
    assert lines[2].startswith("uniform (trial 0)")
    assert lines[3].startswith("best (trial")
    assert "4 trials; budget flops=0.5" in outcome.out
    assert "run folder: my run" in outcome.out
    for command in (
        "autoprune ui 'my run'",
        "autoprune apply 'my run' --output pruned.pt",
        "autoprune evaluate pruned.pt --task digits --split test",
    ):
        assert f"  {command}" in lines
    assert "The network is not trained yet: apply --reconstruct 512 refits it" in lines[-2]
    assert "sensitivity 11/11" in outcome.err
    assert "search 4/4" in outcome.err
    assert "\x1b" not in outcome.out + outcome.err


def test_the_next_commands_hold_for_a_task_without_test_samples(autoprune: Cli, workdir: Path) -> None:
    Path("own.py").write_text(
        "from dataclasses import replace\nfrom tests.user_tasks import task\ntask = replace(task, test_data=None)\n"
    )
    out = autoprune.succeed(*OWN, "--task", "own:task", *UNTRACKED).out
    folder = re.search(r"^run folder: (.*)$", out, re.MULTILINE)[1]  # type: ignore[index]
    typed = [shlex.split(line)[1:] for line in out.splitlines() if line.startswith("  autoprune ")]
    apply, evaluate = (next(words for words in typed if words[0] == kind) for kind in ("apply", "evaluate"))
    assert evaluate == ["evaluate", "pruned.pt", "--task", "own:task"]
    autoprune.succeed(*apply)
    autoprune.succeed(*evaluate)
    autoprune.succeed("report", folder, "--format", "html", "--output", "page")
    assert html.escape(shlex.join(["autoprune", *evaluate])) in Path("page/index.html").read_text()


def test_a_task_is_named_again_by_what_is_typed() -> None:
    section = TaskSection(name="image_folder", data=None, model="timm:resnet18", options={"mean": [0.5], "flip": False})
    assert shlex.join(typed_task(vars(section))) == (
        "--task image_folder --model timm:resnet18 --set 'task.options.mean=[0.5]' --set task.options.flip=false"
    )


@pytest.mark.parametrize(
    "settings", ["search.rerank={top: 1, steps: 1}", "evaluation.reconstruct=32", "scoring.pattern=element"]
)
def test_what_was_mended_or_cannot_be_is_not_told_how_to(autoprune: Cli, workdir: Path, settings: str) -> None:
    assert "not trained yet" not in autoprune.succeed(*SEARCH, "--trials", "1", "--set", settings).out


def test_the_table_is_that_of_the_ledger(autoprune: Cli, workdir: Path) -> None:
    out = autoprune.succeed(*SEARCH, "--output", "run").out
    for row in history_of(workdir / "run").of("result"):
        line = next(line for line in out.splitlines() if line.startswith(row["name"]))
        assert f"{100 * row['validation']['metrics']['accuracy']:.2f} %" in line
        assert f"{row['validation']['loss']:.4f}" in line
        assert f"{100 * row['test']['metrics']['accuracy']:.2f} %" in line
        assert f"{100 * row['costs']['flops'] / 1_527_040:.2f} %" in line


def test_a_terminal_gets_bars_with_an_estimate(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    ours, theirs = pty.openpty()
    received: list[bytes] = []

    def drain() -> None:
        try:
            while data := os.read(ours, 4096):
                received.append(data)
        except OSError:  # the other end was closed
            return

    def on_terminal() -> None:
        os.dup2(theirs, 2)
        sys.stderr = os.fdopen(2, "w")

    reader = threading.Thread(target=drain)
    reader.start()
    code = search_in_child(*SEARCH, before=on_terminal)
    os.close(theirs)
    reader.join(10)
    shown = b"".join(received).decode()
    assert code == 0
    assert "11/11" in shown
    assert "4/4" in shown
    assert "0:00:0" in shown
    assert "best loss" in shown


def test_inspect_shows_which_branches_may_be_removed_and_why_others_may_not(autoprune: Cli, workdir: Path) -> None:
    given = ("--set", "space.depth=true", "--set", "space.groups={stage2.conv1: {depth: false}}")
    out = autoprune.succeed("inspect", *given).out
    assert "0 or 2 to 16" in out
    assert "no removal: the branch of stage2.conv1: depth: false" in out
    shown = json.loads(autoprune.succeed("inspect", "--json", *given).out)
    removable = {group["name"] for group in shown["groups"] if group["removable"]}
    assert removable == {"stage1.conv1", "stage3.conv1"}
    assert shown["staying"] == {"stage2.conv1": "depth: false"}
    refused = autoprune.refused("inspect", "--set", "space.depth=true", "--pattern", "element")
    assert "space.depth removes residual branches where channels are pruned" in refused


def test_groups_equally_wide_are_shown_as_one_and_others_are_refused(autoprune: Cli, workdir: Path) -> None:
    given = ("--set", "space.equal=[stage1.conv1, stage1.conv*]", "--set", "space.protect=[]")
    shown = json.loads(autoprune.succeed("inspect", "--json", *given).out)["groups"]
    (one,) = [group for group in shown if group["name"] == "conv"]
    assert one["layers"] == ["conv", "stage1.conv2", "stage1.conv1"]
    assert len(shown) == 5
    refused = autoprune.refused("inspect", "--set", "space.equal=[stage*.conv1]")
    assert "'stage1.conv1' has 16 structures, 'stage2.conv1' has 32" in refused


def test_a_search_of_equal_widths_writes_them_out_and_is_applied_from_its_folder_and_its_best_file(
    autoprune: Cli, workdir: Path
) -> None:
    given = ("--set", "space.equal=[stage1.conv*]", "--set", "space.protect=[]", "--set", "space.depth=true")
    autoprune.succeed(*SEARCH, *given, "--output", "run")
    widths = yaml.safe_load(Path("run/best.yaml").read_text(encoding="utf-8"))["widths"]
    assert set(widths) == {"conv", *(f"stage{i}.conv{j}" for i in (1, 2, 3) for j in (1, 2))} - {"stage1.conv2"}
    assert widths["stage1.conv1"] in (0, widths["conv"])
    for source in ("run", "run/best.yaml"):
        autoprune.succeed("apply", source, "--output", "pruned.pt", "--overwrite")
        layers = dict(load("pruned.pt").named_modules())
        assert layers["conv"].out_channels == widths["conv"]
        assert not widths["stage1.conv1"] or layers["stage1.conv1"].out_channels == widths["stage1.conv1"]


def test_inspect_names_groups_shares_and_bounds(autoprune: Cli, workdir: Path) -> None:
    out = autoprune.succeed("inspect").out
    assert "stage1.conv1" in out
    shown = json.loads(autoprune.succeed("inspect", "--json").out)
    assert shown["costs"]["flops"] == 1_527_040
    groups = {group["name"]: group for group in shown["groups"]}
    assert groups["stage1.conv1"]["width"] == 16
    assert 0 < groups["stage1.conv1"]["flops_share"] < 1
    assert groups["stage1.conv1"]["floor"] == 2
    assert any(group["pinned"] for group in shown["groups"])


def test_list_names_everything_in_both_forms(autoprune: Cli, workdir: Path) -> None:
    for what, names in registry.TABLES.items():
        outcome = autoprune.succeed("list", what)
        assert [line.split()[0] for line in outcome.out.splitlines()] == list(names)
        assert outcome.err == ""
        described = json.loads(autoprune.succeed("list", what, "--json").out)
        assert all(described.values())
        assert list(described) == list(names)


def test_evaluate_in_json_parses(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    outcome = autoprune.succeed("evaluate", digits_run.folder / "weights" / "1.pt", "--json")
    report = json.loads(outcome.out)
    assert report["samples"] == 400
    assert set(report) == {
        "file",
        "split",
        "samples",
        "metrics",
        "loss",
        "flops",
        "params",
        "size",
        "latency_ms",
    }
