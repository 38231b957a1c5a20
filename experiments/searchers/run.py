"""Searchers compared at the same cost: every cell of the matrix is one `autoprune search`, applied in three ways.

    python -m experiments.searchers.run [--quick] [--processes 2]

Each cell searches with `experiments/searchers.yaml`, then writes the best network as it was scored, reconstructed, and
after the same short training, and judges each. Stop it at any time (Ctrl-C): the same command goes on, within a search
too. Run it where the paths of the experiment file hold (the repository's root). `--report` only writes the tables and
the picture from what is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from autoprune.core.ledger import read_history
from autoprune.core.trial import Score, Stopped
from experiments.cells import Line, append, at_once, autoprune, missing, plain_options, read, search, unit
from experiments.searchers.report import write_report

HERE = Path(__file__).parent
EXPERIMENT = HERE.parent / "searchers.yaml"
SEARCHERS = ("uniform", "random", "knapsack", "annealing", "evolution", "tpe", "auto")
# One epoch of the 20,000 training samples here.
FINETUNE = "steps=157,rate=0.02,momentum=0.9,weight_decay=0.0005,batch_size=128"


@dataclass(frozen=True)
class Cell:
    """One search.

    Attributes:
        part: `half` (the table), `third` (flops=0.35), `all_groups` or `resnet56`.
        evaluations: what it may cost in all.
    """

    part: str
    searcher: str
    seed: int
    evaluations: int
    model: str = "resnet20"
    space: str = "inner_only"
    flops: float = 0.5

    @property
    def name(self) -> str:
        return f"{self.part}-{self.searcher}-{self.seed}"


def matrix(quick: bool) -> list[Cell]:
    """All cells, the table's first."""
    evaluations = 12 if quick else 100
    seeds = range(1) if quick else range(3)
    cells = [Cell("half", searcher, seed, evaluations) for seed in seeds for searcher in SEARCHERS]
    for searcher in ("auto", "tpe", "random", "uniform"):
        cells += [
            Cell("third", searcher, 0, evaluations, flops=0.35),
            Cell("all_groups", searcher, 0, evaluations, space="filters"),
            Cell("resnet56", searcher, 0, evaluations, model="resnet56"),
        ]
    return cells


def main() -> None:
    arguments = plain_options(__doc__, "minutes instead of hours, one seed, 12 evaluations", "searches").parse_args()
    folder = HERE / ("quick" if arguments.quick else "full")
    results = folder / "results.jsonl"
    folder.mkdir(exist_ok=True)
    if not arguments.report:
        cells = missing(matrix(arguments.quick), results)
        append(results, at_once(partial(_run, folder / "runs"), cells, arguments.processes))
    write_report(read(results), folder)


def _run(runs: Path, cell: Cell) -> Line:
    run, task = runs / cell.name, _task(cell)
    search(run, [EXPERIMENT, *_options(cell)])
    autoprune("apply", "--overwrite", run, "--output", run / "best.pt")
    autoprune(
        "apply",
        "--overwrite",
        run / "best.yaml",
        *task,
        "--set",
        "evaluation.reconstruct=512",
        "--output",
        run / "refitted.pt",
    )
    autoprune("apply", "--overwrite", run, "--finetune", FINETUNE, "--output", run / "tuned.pt")
    reports = {
        f"{name}_{split}": json.loads(autoprune("evaluate", run / f"{name}.pt", *task, "--split", split, "--json"))
        for name in ("best", "refitted", "tuned")
        for split in ("validation", "test")
    }
    accuracies = {name: report["accuracy"] for name, report in reports.items()}
    return {
        "cell": asdict(cell),
        **accuracies,
        "loss": reports["best_validation"]["loss"],
        **_anytime(run),
    }


def _options(cell: Cell) -> list[Any]:
    plain = ["--searcher", cell.searcher, "--seed", cell.seed, "--evaluations", cell.evaluations]
    return [*plain, "--budget", f"flops={cell.flops}", "--space", cell.space, *_task(cell)]


def _task(cell: Cell) -> list[Any]:
    task = yaml.safe_load(EXPERIMENT.read_text())["task"]
    checkpoint = Path(task["checkpoint"]).with_name(f"{cell.model}_cifar10.th")
    return ["--task", task["name"], "--model", cell.model, "--checkpoint", checkpoint, "--data", task["data"]]


def _anytime(run: Path) -> Line:
    """How many were judged, what all cost in evaluations, and the best loss so far against that."""
    history = read_history(run)
    per_evaluation = unit(history)
    spent, best, curve = per_evaluation, float("inf"), []
    for record in history.records:
        spent += record.get("work", 0)
        if record["event"] == "told" and "score" in record and record["score"]["loss"] < best:
            best = record["score"]["loss"]
            curve.append([round(spent / per_evaluation, 2), best])
    outcomes = [trial.outcome for trial in history.trials()]
    return {
        "trials": sum(isinstance(outcome, Score) for outcome in outcomes),
        "stopped": sum(isinstance(outcome, Stopped) for outcome in outcomes),
        "evaluations": round(spent / per_evaluation, 2),
        "anytime": curve,
        "seconds": round(_seconds(history.records)),
    }


def _seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """How long a search ran, the time in which it was interrupted left out."""
    steps = [(now["time"] - before["time"], now["event"]) for before, now in pairwise(records)]
    return float(sum(seconds for seconds, event in steps if event != "resumed"))


if __name__ == "__main__":
    main()
