"""What the sensitivity sweep of ResNet-56 costs: plain, and with each of the two ways to make it cheaper.

    python -m experiments.sweep_cost.run [--quick]

Each cell is one `autoprune sensitivity` of the inner groups on 1,000 samples. Stop it at any time (Ctrl-C): the same
command goes on with the cells that are missing. Seconds are those of the processor, so that other work on the machine
does not count. Run it where the paths of `experiments/searchers.yaml` hold (the repository's root).
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from autoprune.core.sensitivity import SensitivityCurves, curves_from_json
from experiments.cells import Line, append, autoprune, missing, plain_options, read

HERE = Path(__file__).parent
EXPERIMENT = HERE.parent / "searchers.yaml"


@dataclass(frozen=True)
class Cell:
    """One sweep.

    Attributes:
        reuse: whether what comes before a group is computed once for all of its levels.
        stop: the share of the dense accuracy below which a group's levels end; None judges all of them.
    """

    model: str
    samples: int
    reuse: bool
    stop: float | None

    @property
    def name(self) -> str:
        return f"{self.model}-{self.samples}-{self.reuse}-{self.stop}"

    def __str__(self) -> str:
        ways = (["what comes before is reused"] if self.reuse else []) + (["hopeless levels end"] if self.stop else [])
        return ", ".join(ways) or "every level by itself"


def main() -> None:
    arguments = plain_options(__doc__, "100 samples").parse_args()
    folder = HERE / ("quick" if arguments.quick else "full")
    results = folder / "results.jsonl"
    folder.mkdir(exist_ok=True)
    samples = 100 if arguments.quick else 1000
    cells = [Cell("resnet56", samples, reuse, stop) for stop in (None, 0.5) for reuse in (False, True)]
    if not arguments.report:
        append(results, (_run(cell, folder / "runs" / cell.name) for cell in missing(cells, results)))
    text = "\n".join(_table(read(results)))
    (folder / "tables.md").write_text(text + "\n")
    print(text)


def _run(cell: Cell, output: Path) -> Line:
    task = yaml.safe_load(EXPERIMENT.read_text())["task"]
    checkpoint = Path(task["checkpoint"]).with_name(f"{cell.model}_cifar10.th")
    sets = [f"sensitivity.samples={cell.samples}", f"sensitivity.reuse={str(cell.reuse).lower()}", "run.threads=1"]
    sets.append(f"sensitivity.stop={'null' if cell.stop is None else cell.stop}")
    options = ["--task", task["name"], "--model", cell.model, "--checkpoint", checkpoint, "--data", task["data"]]
    options += [*(part for each in sets for part in ("--set", each)), "--space", "inner_only", "--output", output]
    before = _processor_seconds()
    autoprune("sensitivity", *options)
    seconds = _processor_seconds() - before
    curves = _curves(output)
    assert curves.work is not None
    return {
        "cell": asdict(cell),
        "levels": sum(map(len, curves.levels.values())),
        "work": curves.work,
        "seconds": round(seconds, 1),
        "losses": [[group, width, score.loss] for group, at in curves.levels.items() for width, score in at.items()],
    }


def _processor_seconds() -> float:
    """Of the processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _curves(output: Path) -> SensitivityCurves:
    file = output / "sensitivity.json"
    return curves_from_json(json.loads(file.read_text()), str(file))[-1]


def _table(lines: Sequence[Line]) -> Iterator[str]:
    """A row for each sweep: what it cost, also as shares of the plain one, and how far its losses are from those."""
    plain = next(line for line in lines if not line["cell"]["reuse"] and line["cell"]["stop"] is None)
    known = {(group, width): loss for group, width, loss in plain["losses"]}
    headings = ["levels judged", "samples × multiply-adds", "of the plain one", "processor seconds", "of the plain one"]
    yield f"| sweep | {' | '.join(headings)} | greatest difference of a loss |"
    yield "| --- |" + " ---: |" * (len(headings) + 1)
    for line in lines:
        cells = [
            str(Cell(**line["cell"])),
            str(line["levels"]),
            f"{line['work']:.3g}",
            f"{100 * line['work'] / plain['work']:.1f} %",
            f"{line['seconds']:.0f}",
            f"{100 * line['seconds'] / plain['seconds']:.1f} %",
            f"{100 * max(abs(known[group, width] / loss - 1) for group, width, loss in line['losses']):.4f} %",
        ]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
