"""One frontier by `nsga2` against searches under single budgets, on digits and on ResNet-20.

    python -m experiments.searchers.frontier [--only digits] [--processes 2]

The frontier may cost 300 evaluations, each search under one budget 100. Stop it at any time (Ctrl-C): the same command
goes on. Written are a table, and a picture with the single searches' best on top of the frontier.
"""

from __future__ import annotations

import argparse
import csv
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from autoprune.core.ledger import read_history
from experiments.cells import search
from experiments.searchers.run import EXPERIMENT, HERE

FOLDER = HERE / "frontier"


@dataclass(frozen=True)
class Case:
    """A network, and the budgets that it is searched under; the greatest is the frontier's."""

    name: str
    options: tuple[str, ...]
    budgets: tuple[float, ...]


CASES = (
    Case("digits", ("--task", "digits", "--set", "run.threads=1"), (0.2, 0.35, 0.5)),
    Case("resnet20", (str(EXPERIMENT),), (0.35, 0.5, 0.65)),
)


@dataclass(frozen=True)
class Point:
    """A network's share of the dense FLOPs, and what it was worth on the validation samples."""

    kept: float
    accuracy: float
    loss: float
    samples: int

    @property
    def error(self) -> float:
        """The standard error of the accuracy."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[case.name for case in CASES])
    parser.add_argument("--processes", type=int, default=2, help="searches at once, each on one thread")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in (None, case.name)]
    FOLDER.mkdir(exist_ok=True)
    searches = [each for case in cases for each in _searches(case)]
    with ThreadPoolExecutor(arguments.processes) as pool:
        list(pool.map(lambda each: _search(*each), searches))
    for case in cases:
        _report(case)


def _run(case: Case, budget: float | None) -> Path:
    return FOLDER / "runs" / (f"{case.name}-{budget}" if budget else case.name)


def _searches(case: Case) -> list[tuple[Path, list[str]]]:
    """Folder and options of each search, the longest first."""
    common = ["--set", "track.enabled=false"]
    frontier = ["--searcher", "nsga2", "--budget", f"flops={max(case.budgets)}", "--evaluations", "300"]
    found = [(_run(case, None), [*case.options, *frontier, *common])]
    for budget in case.budgets:
        single = ["--searcher", "auto", "--budget", f"flops={budget}", "--evaluations", "100"]
        found.append((_run(case, budget), [*case.options, *single, *common]))
    return found


def _search(run: Path, options: list[str]) -> None:
    search(run, options)
    print(run.name, flush=True)


def _report(case: Case) -> None:
    dense = _dense(_run(case, None))
    frontier = _frontier(_run(case, None))
    singles = {budget: _best(_run(case, budget), dense) for budget in case.budgets}
    lines = [
        "| budget | search under it | frontier at no greater cost | difference | standard error of it "
        "| least difference of a point that costs as much or more |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for budget, single in singles.items():
        nearest = max((point for point in frontier if point.kept <= budget), key=lambda point: point.accuracy)
        difference, error = nearest.accuracy - single.accuracy, math.hypot(nearest.error, single.error)
        dominated = min(
            (point.accuracy - single.accuracy for point in frontier if point.kept >= single.kept), default=None
        )
        lines.append(
            f"| {budget} | {100 * single.accuracy:.2f} % (loss {single.loss:.4f}) | {100 * nearest.accuracy:.2f} % "
            f"(loss {nearest.loss:.4f}) | {100 * difference:+.2f} | {100 * error:.2f} | "
            f"{'none costs as much' if dominated is None else f'{100 * dominated:+.2f}'} |"
        )
    text = "\n".join(lines)
    (FOLDER / f"{case.name}.md").write_text(text + "\n")
    print(f"**{case.name}**\n\n{text}\n")
    _picture(case, frontier, singles)


def _dense(run: Path) -> int:
    record = read_history(run).last("dense")
    assert record is not None
    return int(record["costs"]["flops"])


def _frontier(run: Path) -> list[Point]:
    with (run / "frontier.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        Point(float(row["flops_kept"]), float(row["accuracy"]), float(row["loss"]), int(row["samples"])) for row in rows
    ]


def _best(run: Path, dense: int) -> Point:
    best: dict[str, Any] = yaml.safe_load((run / "best.yaml").read_text())
    trial = next(trial for trial in read_history(run).trials() if trial.number == best["trial"])
    assert trial.score is not None
    return Point(trial.costs["flops"] / dense, trial.score.metrics["accuracy"], trial.score.loss, trial.score.samples)


def _picture(case: Case, frontier: list[Point], singles: dict[float, Point]) -> None:
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    kept = [100 * point.kept for point in frontier]
    axes.plot(kept, [100 * point.accuracy for point in frontier], ".-", label="one frontier by nsga2, 300 evaluations")
    axes.errorbar(
        [100 * point.kept for point in singles.values()],
        [100 * point.accuracy for point in singles.values()],
        yerr=[100 * point.error for point in singles.values()],
        fmt="s",
        color="tab:red",
        capsize=3,
        label="auto under one budget, 100 evaluations each (± standard error)",
    )
    axes.set_xlabel("FLOPs kept (%)")
    axes.set_ylabel("validation accuracy (%)")
    axes.set_title(case.name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(FOLDER / f"{case.name}.png", dpi=120)


if __name__ == "__main__":
    main()
