"""NetAdapt and AutoCompress to two budgets, beside allocations that are trained only afterwards for as many steps.

    python -m experiments.rounds.run [--quick] [--processes 2]

Each cell is one `autoprune search` on ResNet-20. The rounds of `netadapt` and `autocompress` train on the way, the
network that comes out for `STEPS` steps. What `auto` and `uniform` find without any training is then trained for as
many. All are judged there, and again after one more epoch of the 20,000 training samples. Stop it at any time (Ctrl-C):
the same command goes on, within a round or a training too. Run it where the paths of `experiments/searchers.yaml` hold
(the repository's root). `--report` only writes tables and picture from what is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from autoprune.core.ledger import read_history
from autoprune.core.trial import Trial
from experiments.cells import Line, append, at_once, autoprune, evaluations, missing, plain_options, read, search
from experiments.rounds.report import write_report

HERE = Path(__file__).parent
EXPERIMENT = HERE.parent / "searchers.yaml"
BUDGETS = (0.5, 0.2)
STEPS = 500
TRAINING = "rate=0.02,momentum=0.9,weight_decay=0.0005,batch_size=128"
EPOCH = 157
"""Steps for the 20,000 training samples, 128 at a time."""
ROUNDS = {
    # 10 rounds of 50 steps, one candidate for each of the 9 groups
    "netadapt": ("search.trials=90", "search.rounds.count=10", "search.rounds.finetune.steps=50"),
    # 4 rounds of 75 and 50 steps, one candidate of which is trained after 20 that are not
    "autocompress": (
        "search.trials=84",
        "search.rounds.count=4",
        "search.rounds.admm.steps=75",
        "search.rounds.finetune.steps=50",
    ),
}
QUICK = {
    "netadapt": ("search.trials=18", "search.rounds.count=2", "search.rounds.finetune.steps=2"),
    "autocompress": (
        "search.trials=8",
        "search.rounds.count=2",
        "search.rounds.probes=3",
        "search.rounds.admm.steps=2",
        "search.rounds.finetune.steps=2",
    ),
}


@dataclass(frozen=True)
class Cell:
    """One search.

    Attributes:
        flops: the share that the budget allows.
        settings: what it changes of `experiments/searchers.yaml`.
        steps: what the network that comes out is still trained for, before it is judged first.
    """

    searcher: str
    flops: float
    settings: tuple[str, ...]
    steps: int

    @property
    def name(self) -> str:
        return f"{self.searcher}-{self.flops}"


def matrix(quick: bool) -> list[Cell]:
    """All cells, those that take longest first."""
    rounds = QUICK if quick else ROUNDS
    plain = ("evaluation.samples=200",) if quick else ()
    cells = [
        Cell(searcher, flops, ("search.evaluations=null", *settings, *plain), 0)
        for searcher, settings in rounds.items()
        for flops in BUDGETS
    ]
    one_shot = ("search.evaluations=100", *plain) if quick else ()
    return cells + [
        Cell(searcher, flops, one_shot, 4 if quick else STEPS) for searcher in ("auto", "uniform") for flops in BUDGETS
    ]


def main() -> None:
    arguments = plain_options(__doc__, "some minutes instead of hours, few steps", "searches").parse_args()
    folder = HERE / ("quick" if arguments.quick else "full")
    results = folder / "results.jsonl"
    folder.mkdir(exist_ok=True)
    if not arguments.report:
        run = partial(_run, folder / "runs", 2 if arguments.quick else EPOCH)
        append(results, at_once(run, missing(matrix(arguments.quick), results), arguments.processes))
    write_report(read(results), folder)


def _run(runs: Path, epoch: int, cell: Cell) -> Line:
    run = runs / cell.name
    settings = [part for each in cell.settings for part in ("--set", each)]
    search(run, [EXPERIMENT, "--searcher", cell.searcher, "--budget", f"flops={cell.flops}", *settings])
    history = read_history(run)
    dense = history.last("dense")
    assert dense is not None
    return {
        "cell": asdict(cell),
        "dense": {"flops": dense["costs"]["flops"], "accuracy": dense["score"]["accuracy"]},
        "untrained": _scores(run, 0) if cell.steps else None,
        "trained": _scores(run, cell.steps),
        "after_epoch": _scores(run, cell.steps + epoch),
        "rounds": [_step(trial) for trial in _lineage(run)],
        "evaluations": evaluations(run),
        "seconds": round(sum(record.get("seconds", 0) for record in history.of("told"))),
    }


def _scores(run: Path, steps: int) -> dict[str, float]:
    """What the best network is worth after so many steps of training, and its costs."""
    file = run / f"best-{steps}.pt"
    finetune = ("--finetune", f"steps={steps},{TRAINING}") if steps else ()
    if not file.exists():
        autoprune("apply", "--overwrite", run, *finetune, "--output", file)
    task = yaml.safe_load(EXPERIMENT.read_text())["task"]
    options = ["--task", task["name"], "--model", task["model"], "--checkpoint", task["checkpoint"]]
    reports = {
        split: json.loads(autoprune("evaluate", file, *options, "--data", task["data"], "--split", split, "--json"))
        for split in ("validation", "test")
    }
    validation = reports["validation"]
    return {
        "validation": validation["accuracy"],
        "loss": validation["loss"],
        "test": reports["test"]["accuracy"],
        "flops": validation["flops"],
        "params": validation["params"],
    }


def _lineage(run: Path) -> list[Trial]:
    """The best trial, after the one that its weights came from, and so on back to the dense network's."""
    trials = {trial.number: trial for trial in read_history(run).trials()}
    number: int | None = yaml.safe_load((run / "best.yaml").read_text())["trial"]
    found = []
    while number is not None:
        found.append(trials[number])
        number = trials[number].candidate.parent
    return found[::-1]


def _step(trial: Trial) -> dict[str, Any]:
    assert trial.score is not None
    return {
        "trial": trial.number,
        "flops": trial.costs["flops"],
        "widths": dict(trial.candidate.allocation),
        "accuracy": trial.score.metrics["accuracy"],
        "loss": trial.score.loss,
    }


if __name__ == "__main__":
    main()
