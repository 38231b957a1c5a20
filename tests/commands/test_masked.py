"""Searches that set weights to zero, end to end: what is not zero is what was predicted, and is called *effective*."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

import autoprune as package
from autoprune.core.trial import Trial
from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint
from autoprune.tasks.datasets.digits import DigitsTask
from tests.journeys import TINY, UNTRACKED, Cli, history_of
from tests.tiers import rest_slow

IMAGES = torch.rand(4, 1, 8, 8)
SEARCH = ("search", "--budget", "flops=0.6", *TINY, "--output", "run", "--pruner")


def _best(run: Path) -> Trial:
    finished = history_of(run).last("finished")
    assert finished is not None
    return next(trial for trial in history_of(run).trials() if trial.number == finished["best"])


def _nonzero(path: str) -> int:
    return sum(int((parameter != 0).sum()) for parameter in package.load(path).parameters())


@pytest.mark.parametrize("pruner", rest_slow(["level", "block_1x1x8", "two_four"]))
def test_what_a_search_masks_comes_out_as_it_was_scored(autoprune: Cli, workdir: Path, pruner: str) -> None:
    out = autoprune.succeed(*SEARCH, pruner, *UNTRACKED).out
    assert "effective FLOPs" in out
    run, dense = workdir / "run", DigitsTask().network()
    best = _best(run)
    assert best.score is not None
    assert best.costs["flops"] <= 0.6 * history_of(run).of("dense")[0]["costs"]["flops"]
    header, *rows = list(csv.reader((run / "results.csv").read_text().splitlines()))
    costs = dict(zip(header, rows[-1], strict=True))
    assert "size" in header
    assert [costs[f"effective_{kind}"] for kind in ("flops", "params")] == [
        str(best.costs[kind]) for kind in ("flops", "params")
    ]
    assert yaml.safe_load((run / "best.yaml").read_text())["effective"] is True
    said = autoprune.succeed("apply", "run", "--output", "pruned.pt").out
    assert "effective FLOPs" in said
    zeros = sum(p.numel() for p in dense.parameters()) - best.costs["params"]
    assert zeros > 0
    assert _nonzero("pruned.pt") <= best.costs["params"]  # less by what is zero in the dense network
    report = json.loads(autoprune.succeed("evaluate", "pruned.pt", "--split", "validation", "--json").out)
    checkpoint = read_checkpoint(Path("pruned.pt"))
    assert checkpoint is not None
    assert report["effective_flops"] <= best.costs["flops"] < report["flops"]
    assert report["effective_params"] == _nonzero("pruned.pt")
    assert "effective " in autoprune.succeed("evaluate", "pruned.pt").out
    again = autoprune.succeed("apply", "run/best.yaml", "--output", "again.pt").out
    assert "effective FLOPs" in again
    torch.testing.assert_close(package.load("again.pt")(IMAGES), package.load("pruned.pt")(IMAGES))


def test_fine_tuning_holds_the_masks(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*SEARCH, "level", *UNTRACKED)
    autoprune.succeed("apply", "run", "--output", "plain.pt")
    autoprune.succeed("apply", "run", "--output", "tuned.pt", "--finetune", "steps=20,rate=0.05")
    plain, tuned = (package.load(path).state_dict() for path in ("plain.pt", "tuned.pt"))
    weights = [name for name in plain if plain[name].dim() > 1]
    assert any(not torch.equal(plain[name], tuned[name]) for name in weights)
    for name in weights:
        assert (tuned[name][plain[name] == 0] == 0).all(), name


def test_size_is_no_budget_for_zeros(autoprune: Cli, workdir: Path) -> None:
    said = autoprune.refused("search", "--budget", "size=0.5", *TINY, *UNTRACKED, "--pruner", "level")
    assert "size=0.5 cannot be met by setting weights to zero" in said


def test_mlflow_says_that_costs_are_effective(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*SEARCH, "two_four")
    client = MlflowClient(f"sqlite:///{workdir / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("autoprune").experiment_id])
    assert len(runs) > 1
    assert {run.data.tags["autoprune.costs"] for run in runs} == {"effective"}
    assert {run.data.params["costs"] for run in runs} == {"effective"}


def test_whole_layers_are_searched_applied_and_loaded(autoprune: Cli, workdir: Path) -> None:
    options = ("--pattern", "layer", "--budget", "flops=0.75", "--searcher", "random", "--set", "sensitivity.levels=1")
    autoprune.succeed("search", *options, "--trials", "3", *UNTRACKED, "--output", "run")
    best = yaml.safe_load(Path("run/best.yaml").read_text())
    assert set(best["widths"]) == {"stage1.conv1", "stage2.conv1", "stage3.conv1"}
    assert 0 in best["widths"].values()
    assert best["costs"]["flops"] <= 0.75 * 1_527_040
    said = autoprune.succeed("apply", "run", "--output", "small.pt").out
    assert "effective" not in said  # the layers are gone, not zero
    network = package.load("small.pt")
    gone = [name for name, width in best["widths"].items() if width == 0]
    assert not any(key.startswith(gone[0].removesuffix("conv1")) and "conv" in key for key in network.state_dict())
    report = json.loads(autoprune.succeed("evaluate", "small.pt", "--json").out)
    assert report["flops"] == best["costs"]["flops"]
    assert report["metrics"] == pytest.approx(best["metrics"])
    autoprune.succeed("apply", "run/best.yaml", "--output", "anew.pt", "--set", "scoring.pattern=layer")
    assert read_checkpoint(Path("anew.pt")).shapes == read_checkpoint(Path("small.pt")).shapes  # type: ignore[union-attr]
