"""Widths, criterion and fine-tuning rate searched together, and widths alone, at the same cost.

    python -m experiments.joint.run [--quick] [--resnet20] [--processes 2]

Every cell is one `autoprune search` whose candidates are fine-tuned for a few steps: on digits for five seeds, with
`--resnet20` on CIFAR-10 for one. What is not searched along has the default settings. Stop it at any time (Ctrl-C): the
same command goes on, within a search too. Run it where the paths of `experiments/searchers.yaml` hold (the repository's
root). `--report` only writes the table from what is there.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from autoprune.core.ledger import read_history
from experiments.cells import Line, append, at_once, evaluations, missing, plain_options, read, search

HERE = Path(__file__).parent
RESNET20 = HERE.parent / "searchers.yaml"
SEARCHERS = ("tpe", "evolution")
SETTINGS = (
    "space.settings.criterion=[l1, l2, fpgm, taylor]",
    "space.settings.finetune.rate={low: 0.003, high: 0.3, log: true}",
)
TITLES = {
    "digits": "Digits, all groups, 30 % of the FLOPs, 20 steps of fine-tuning",
    "resnet20": "ResNet-20, inner groups, half of the FLOPs, 20 steps of fine-tuning",
}


@dataclass(frozen=True)
class Cell:
    """One search.

    Attributes:
        evaluations: what it may cost in all.
    """

    part: str
    searcher: str
    joint: bool
    seed: int
    evaluations: int

    @property
    def name(self) -> str:
        return f"{self.part}-{self.searcher}-{'joint' if self.joint else 'alone'}-{self.seed}"


def matrix(quick: bool, resnet20: bool) -> list[Cell]:
    """All cells, seed by seed."""
    seeds, evaluations = (range(1), 60) if quick else (range(5), 400)
    kinds = [(searcher, joint) for searcher in SEARCHERS for joint in (True, False)]
    cells = [Cell("digits", *kind, seed, evaluations) for seed in seeds for kind in kinds]
    return cells + ([Cell("resnet20", *kind, 0, 12 if quick else 100) for kind in kinds] if resnet20 else [])


def main() -> None:
    parser = plain_options(__doc__, "a minute or two, one seed, 60 evaluations", "searches")
    parser.add_argument("--resnet20", action="store_true", help="on ResNet-20, too: hours")
    arguments = parser.parse_args()
    folder = HERE / ("quick" if arguments.quick else "full")
    results = folder / "results.jsonl"
    folder.mkdir(exist_ok=True)
    if not arguments.report:
        cells = missing(matrix(arguments.quick, arguments.resnet20), results)
        append(results, at_once(partial(_run, folder / "runs"), cells, arguments.processes))
    (folder / "tables.md").write_text(tables(read(results)) + "\n")


def _run(runs: Path, cell: Cell) -> Line:
    run, start = runs / cell.name, time.perf_counter()
    search(run, _options(cell))
    with (run / "results.csv").open() as file:
        best = next(row for row in csv.DictReader(file) if row["network"] == "best")
    chosen = {key.removeprefix("settings."): value for key, value in best.items() if key.startswith("settings.")}
    return {
        "cell": asdict(cell),
        "loss": float(best["loss"]),
        "accuracy": float(best["accuracy"]),
        "test": float(best["test_accuracy"]),
        "settings": chosen,
        "trials": len(read_history(run).trials()),
        "evaluations": evaluations(run),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _options(cell: Cell) -> list[Any]:
    experiment: list[Any] = [RESNET20] if cell.part == "resnet20" else ["--budget", "flops=0.3"]
    sets = ["evaluation.finetune.steps=20", "search.rerank.top=1", "track.enabled=false", "run.threads=1"]
    sets += SETTINGS if cell.joint else ()
    plain = ["--searcher", cell.searcher, "--seed", cell.seed, "--evaluations", cell.evaluations]
    return [*experiment, *plain, *(part for each in sets for part in ("--set", each))]


def tables(lines: Sequence[Line]) -> str:
    """One table a part: what is searched, means over the seeds, and what was chosen in each."""
    parts = []
    for part, title in TITLES.items():
        of = [line for line in lines if line["cell"]["part"] == part]
        if of:
            parts.append("\n".join((f"**{title}**", "", *_table(of))))
    return "\n\n".join(parts)


def _table(lines: Sequence[Line]) -> list[str]:
    headings = ["searcher", "searched", "seeds", "validation loss", "of each seed", "validation %", "test %"]
    headings += ["evaluations", "chosen"]
    rows = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for searcher in SEARCHERS:
        for joint in (False, True):
            of = [line for line in lines if (line["cell"]["searcher"], line["cell"]["joint"]) == (searcher, joint)]
            if of:
                rows.append(_row(searcher, joint, of))
    return rows


def _row(searcher: str, joint: bool, lines: Sequence[Line]) -> str:
    def mean(key: str) -> float:
        return statistics.fmean(line[key] for line in lines)

    cells = [
        searcher,
        "widths, criterion, rate" if joint else "widths",
        str(len(lines)),
        f"{mean('loss'):.4f}",
        " ".join(f"{line['loss']:.4f}" for line in lines),
        f"{100 * mean('accuracy'):.2f}",
        f"{100 * mean('test'):.2f}",
        f"{mean('evaluations'):.0f}",
        "; ".join(" ".join(line["settings"].values()) for line in lines) if joint else "the defaults",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
