"""Trains a network, searches it, and compares best and uniform on test samples that chose nothing.

    python -m experiments.tasks.compare NAME [--output DIR] [--split validation] [--quick]

NAME is a module of this folder. Stop it at any time: whatever was done is kept in DIR, and the same command goes on
there. One thread, and seeds for all that is drawn, so that the command ends in the same networks again.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import autoprune
from autoprune.tasks.training.snapshot import checkpointing, read_snapshot, resume, write_snapshot
from autoprune.tasks.weight_files.pickled import read_checkpoint, write_tensors
from experiments.tasks.estimates import Estimate, estimate, sample_values, statistic_of
from experiments.tasks.experiment import Experiment

NAMES = ("regression", "segmentation", "text_classification", "language_model", "denoising")
PRUNED = ("uniform", "best")
SNAPSHOT_STEPS = 50


@dataclass(frozen=True)
class Comparison:
    """An experiment under way.

    Attributes:
        task: all of it; the search gets it without test samples.
        folder: where everything is kept that was done.
        split: whose samples are reported.
    """

    experiment: Experiment
    task: autoprune.SimpleTask
    folder: Path
    split: str

    def run(self) -> dict[str, Any]:
        """Does what is not done yet, and returns what is reported."""
        dense = self._dense()
        found = {name: self._search(name, dense, settings) for name, settings in self._searches().items()}
        networks = {"dense": dense, **{name: result.network for name, result in found.items()}}
        tuned = {name: self._trained(networks[name], self.experiment.finetuning, f"{name}_tuned") for name in PRUNED}
        before = {name: self._estimates(network, name) for name, network in networks.items()}
        after = {name: self._estimates(network, f"{name}_tuned") for name, network in tuned.items()}
        return self._report(found, before, after)

    def _searches(self) -> dict[str, dict[str, Any]]:
        common = {"run__threads": 1, "track__enabled": False}
        return {"uniform": self.experiment.uniform() | common, "best": dict(self.experiment.search) | common}

    def _dense(self) -> nn.Module:
        """Returns the dense network, trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.task.network()
        if self.experiment.weights is not None:
            self.task.load(network, self.experiment.weights)
        return (
            network if self.experiment.training is None else self._trained(network, self.experiment.training, "dense")
        )

    def _trained(self, network: nn.Module, plan: autoprune.TrainingPlan, name: str) -> nn.Module:
        """Returns a copy that was trained by the plan, in an earlier run or in this one from its last snapshot on."""
        network, path = copy.deepcopy(network), self.folder / f"{name}.pt"
        save = partial(write_snapshot, path)
        hooks = [checkpointing(save, SNAPSHOT_STEPS, extra=lambda: {"plan": str(asked)}), _PROGRESS]
        asked = plan
        if path.exists():
            snapshot = read_snapshot(path)
            if snapshot.extra != {"plan": str(asked)}:
                raise autoprune.UserError(f"{path} was trained by {snapshot.extra['plan']}; name another --output")
            plan, hooks = snapshot.remaining(plan), [resume(snapshot), *hooks]
        say(f"{name}: {asked}" + (f", after step {plan.begin}" if plan.begin else ""))
        self.task.train(network, plan, hooks)
        return network

    def _search(self, name: str, dense: nn.Module, settings: Mapping[str, Any]) -> autoprune.SearchResult:
        say(f"{name}: {self.experiment.budget}, {dict(settings)}")
        unseen = replace(self.task, test_data=None)
        return autoprune.search(
            dense, unseen, self.experiment.budget, output=self.folder / name, resume=True, **settings
        )

    def _estimates(self, network: nn.Module, name: str) -> dict[str, Estimate]:
        """Returns the network's metrics on the split that is reported; what each sample gave is kept."""
        path = self.folder / self.split / f"{name}.pt"
        if not path.exists():
            say(f"{name}: {self.split}")
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, sample_values(network, self.task, self.split))
        values = read_checkpoint(path)
        return {metric.name: estimate(statistic_of(metric), values[metric.name]) for metric in self.task.metrics}

    def _report(
        self,
        found: Mapping[str, autoprune.SearchResult],
        before: Mapping[str, Mapping[str, Estimate]],
        after: Mapping[str, Mapping[str, Estimate]],
    ) -> dict[str, Any]:
        experiment, best = self.experiment, found["best"]
        rows = {"dense": best.results[0], **{name: each.results[-1] for name, each in found.items()}}
        stages = {"before": before, "after": after}
        return {
            "network": experiment.name,
            "split": self.split,
            "samples": len(next(iter(before["dense"].values())).influence),
            "budget": experiment.budget,
            "search": dict(experiment.search),
            "trials": len(best.trials),
            "training": str(experiment.training or (experiment.weights and experiment.weights.name)),
            "finetuning": str(experiment.finetuning),
            "costs": {name: dict(row.costs) for name, row in rows.items()},
            "widths": {name: dict(each.allocation) for name, each in found.items()},
            "metrics": [
                {"name": each.name, "unit": each.unit, "direction": each.direction}
                | {stage: _compared(estimates, each) for stage, estimates in stages.items()}
                for each in self.task.metrics
            ],
        }


def _say_loss(network: nn.Module, step: int, steps: int, loss: float) -> None:
    if step % SNAPSHOT_STEPS == 0:
        say(f"step {step}/{steps}, loss {loss:.4f}")


_PROGRESS = autoprune.Hook(after_step=_say_loss)


def _compared(estimates: Mapping[str, Mapping[str, Estimate]], metric: autoprune.Metric) -> dict[str, Any]:
    """Returns a metric of each network, and by how much the best one is better than the uniform one.

    Args:
        estimates: network to metric to estimate.
        metric: which of them.
    """
    found = {name: each[metric.name] for name, each in estimates.items()}
    difference = found["best"].minus(found["uniform"])
    ahead = difference.value if metric.direction == "maximize" else 0.0 - difference.value
    errors = ahead / difference.error if difference.error else 0.0
    return {
        "networks": {name: {"value": each.value, "error": each.error} for name, each in found.items()},
        "best_ahead": {"value": ahead, "error": difference.error, "standard_errors": errors},
    }


def table(report: Mapping[str, Any]) -> str:
    """Returns a report as a table in Markdown."""
    metrics, costs = report["metrics"], report["costs"]
    headings = [report["network"], "FLOPs", "parameters"]
    for metric in metrics:
        unit = f", {metric['unit']}" if metric["unit"] else ""
        headings += [f"{metric['name'].replace('_', ' ')}{unit}", "fine-tuned"]
    lines = [f"| {' | '.join(headings)} |", f"| --- |{' ---: |' * (len(headings) - 1)}"]
    for name in ("dense", *PRUNED):
        cells = [f"{100 * costs[name][kind] / costs['dense'][kind]:.1f} %" for kind in ("flops", "params")]
        for metric in metrics:
            stages = [metric[stage]["networks"].get(name) for stage in ("before", "after")]
            cells += ["" if found is None else _said(found, metric) for found in stages]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = []
    for metric in metrics:
        for found in (metric[stage]["best_ahead"] for stage in ("before", "after")):
            cells.append(f"{_said(found, metric, '+')} ({found['standard_errors']:+.1f})")
    return "\n".join([*lines, f"| best better by (standard errors) | | | {' | '.join(cells)} |"])


def _said(found: Mapping[str, float], metric: Mapping[str, Any], sign: str = "") -> str:
    scale, digits = (100, 2) if metric["unit"] == "%" else (1, 3)
    return f"{scale * found['value']:{sign}.{digits}f} ± {scale * found['error']:.{digits}f}"


def say(line: str) -> None:
    """Writes a line on what is being done."""
    print(line, file=sys.stderr, flush=True)


def experiments_of(name: str) -> Sequence[Experiment]:
    """Returns what a module of this folder compares."""
    found: Sequence[Experiment] = importlib.import_module(f"experiments.tasks.{name}").EXPERIMENTS
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/tasks/NAME")
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        default="test",
        help="report on these; settings are chosen on the first",
    )
    parser.add_argument("--quick", action="store_true", help="only to see that it works: a few steps of everything")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = options.output or Path("runs/tasks") / (f"{options.name}_quick" if options.quick else options.name)
    reports = []
    for experiment in experiments_of(options.name):
        own = folder / experiment.name
        own.mkdir(parents=True, exist_ok=True)
        chosen = experiment.quick() if options.quick else experiment
        try:
            reports.append(Comparison(chosen, chosen.task(), own, options.split).run())
        except autoprune.UserError as fault:
            parser.error(str(fault))
        print(table(reports[-1]), end="\n\n", flush=True)
    command = shlex.join(["python", *sys.orig_argv[1:]])
    name = "results.json" if options.split == "test" else f"results_{options.split}.json"
    (folder / name).write_text(json.dumps({"command": command, "reports": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
