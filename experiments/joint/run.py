"""Widths, criterion and fine-tuning rate searched together, and widths alone, at the same cost.

    python experiments/joint/run.py [--quick] [--resnet20] [--processes 2]

Every cell is one `autoprune search` whose candidates are fine-tuned for a few steps: on digits for five seeds, with
`--resnet20` on CIFAR-10 for one. What is not searched along has the default settings. Stop it at any time (Ctrl-C): the
same command goes on, within a search too. Run it where the paths of `experiments/searchers.yaml` hold (the repository's
root). `--report` only writes the table from what is there.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoprune.core.ledger import read_history

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

    study: str
    searcher: str
    joint: bool
    seed: int
    evaluations: int

    @property
    def name(self) -> str:
        return f"{self.study}-{self.searcher}-{'joint' if self.joint else 'alone'}-{self.seed}"


def matrix(quick: bool, resnet20: bool) -> list[Cell]:
    """All cells, seed by seed."""
    seeds, evaluations = (range(1), 60) if quick else (range(5), 400)
    kinds = [(searcher, joint) for searcher in SEARCHERS for joint in (True, False)]
    cells = [Cell("digits", *kind, seed, evaluations) for seed in seeds for kind in kinds]
    return cells + ([Cell("resnet20", *kind, 0, 12 if quick else 100) for kind in kinds] if resnet20 else [])


def main() -> None:
    arguments = _arguments()
    folder = HERE / ("quick" if arguments.quick else "full")
    results = folder / "results.jsonl"
    if not arguments.report:
        folder.mkdir(exist_ok=True)
        done = {json.dumps(line["cell"], sort_keys=True) for line in read(results)}
        cells = matrix(arguments.quick, arguments.resnet20)
        missing = [cell for cell in cells if json.dumps(asdict(cell), sort_keys=True) not in done]
        print(f"{len(cells) - len(missing)} searches are done, {len(missing)} to do", file=sys.stderr)
        with ThreadPoolExecutor(arguments.processes) as pool:
            for line in pool.map(lambda cell: _run(cell, folder / "runs" / cell.name), missing):
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)
    (folder / "tables.md").write_text(tables(read(results)) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute or two, one seed, 60 evaluations")
    parser.add_argument("--resnet20", action="store_true", help="on ResNet-20, too: hours")
    parser.add_argument("--report", action="store_true", help="only write the table from what is there")
    parser.add_argument("--processes", type=int, default=2, help="searches at once, each on one thread")
    return parser.parse_args()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results; one that was cut off while it was written is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _run(cell: Cell, run: Path) -> dict[str, Any]:
    run.parent.mkdir(exist_ok=True)
    start = time.perf_counter()
    if (run / "ledger.jsonl").exists():
        autoprune("search", "--resume", run)
    else:
        autoprune("search", *_options(cell), "--output", run)
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
        "evaluations": _cost(run),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _options(cell: Cell) -> list[Any]:
    experiment: list[Any] = [RESNET20] if cell.study == "resnet20" else ["--budget", "flops=0.3"]
    sets = ["evaluation.finetune.steps=20", "search.rerank.top=1", "track.enabled=false", "run.threads=1"]
    sets += SETTINGS if cell.joint else ()
    plain = ["--searcher", cell.searcher, "--seed", cell.seed, "--evaluations", cell.evaluations]
    return [*experiment, *plain, *(part for each in sets for part in ("--set", each))]


def _cost(run: Path) -> float:
    """What a search cost, in judgements of the dense network."""
    history = read_history(run)
    dense = history.last("dense")
    assert dense is not None
    unit = dense["score"]["images"] * dense["costs"]["flops"] // 2
    return round(1 + sum(record.get("work") or 0 for record in history.records) / unit, 1)


def autoprune(*arguments: Any) -> None:
    """Runs a command.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [sys.executable, "-m", "autoprune", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")


def tables(lines: Sequence[dict[str, Any]]) -> str:
    """One table a study: what is searched, means over the seeds, and what was chosen in each."""
    parts = []
    for study, title in TITLES.items():
        of = [line for line in lines if line["cell"]["study"] == study]
        if of:
            parts.append("\n".join((f"**{title}**", "", *_table(of))))
    return "\n\n".join(parts)


def _table(lines: Sequence[dict[str, Any]]) -> list[str]:
    headings = ["searcher", "searched", "seeds", "validation loss", "of each seed", "validation %", "test %"]
    headings += ["evaluations", "chosen"]
    rows = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    for searcher in SEARCHERS:
        for joint in (False, True):
            of = [line for line in lines if (line["cell"]["searcher"], line["cell"]["joint"]) == (searcher, joint)]
            if of:
                rows.append(_row(searcher, joint, of))
    return rows


def _row(searcher: str, joint: bool, lines: Sequence[dict[str, Any]]) -> str:
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
        "; ".join(" ".join(line["settings"].values()) for line in lines),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
