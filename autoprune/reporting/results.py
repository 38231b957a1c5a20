"""The rows of a run's final table: dense, uniform at the same budget, best found."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from autoprune.core.budget import EFFECTIVE_KINDS
from autoprune.core.ledger import History
from autoprune.core.settings import text_of
from autoprune.core.trial import Score, Setting, Trial
from autoprune.errors import printable


@dataclass(frozen=True)
class Result:
    """One network of the final table.

    Attributes:
        name: `dense`, `uniform` or `best`.
        number: of its trial, if it was one.
        widths: group to kept width; empty for the dense network.
        validation: on all validation samples.
        test: on the test samples, which chose nothing; None if the task has none.
        latency_ms: median time of one sample's forward pass.
        effective: whether weights were set to zero and the costs leave out what is zero.
        settings: those that were searched along, as they were for it.
        steps: of training that its weights have had since the dense checkpoint, over all rounds.
    """

    name: str
    number: int | None
    widths: Mapping[str, int]
    validation: Score
    test: Score | None
    costs: Mapping[str, int]
    latency_ms: float
    effective: bool = False
    settings: Mapping[str, Setting] = field(default_factory=dict)
    steps: int = 0

    def to_json(self) -> dict[str, Any]:
        scores = {"validation": self.validation.to_json(), "test": self.test.to_json() if self.test else None}
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, **scores}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        fields = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        fields["validation"] = Score.from_json(data["validation"])
        fields["test"] = Score.from_json(data["test"]) if data["test"] else None
        return cls(**fields)


def results_in(history: History) -> list[Result]:
    """Returns the final table that a ledger holds; of each name the newest row."""
    return list({record["name"]: Result.from_json(record) for record in history.of("result")}.values())


def results_csv(results: Sequence[Result]) -> str:
    """Returns the final table as CSV: plain numbers, one line a network."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    costs = list(results[0].costs)
    effective = any(result.effective for result in results)
    headings = [f"effective_{kind}" if effective and kind in EFFECTIVE_KINDS else kind for kind in costs]
    searched = list(results[-1].settings)
    headings += ["latency_ms", "training_steps", *(f"settings.{name}" for name in searched)]
    writer.writerow(["network", "trial", "accuracy", "loss", "test_accuracy", *headings])
    for result in results:
        test = result.test.accuracy if result.test else ""
        number = "" if result.number is None else result.number
        scores = [result.validation.accuracy, result.validation.loss, test]
        settings = [text_of(result.settings.get(name, "")) for name in searched]
        values = [*scores, *(result.costs[kind] for kind in costs), result.latency_ms, result.steps, *settings]
        writer.writerow([result.name, number, *values])
    return text.getvalue()


def results_table(results: Sequence[Result]) -> Table:
    """Returns the final table for the terminal."""
    headings, rows = results_cells(results)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("network", "settings") else "right", no_wrap=True)
    for result, cells in zip(results, rows, strict=True):
        table.add_row(*map(printable, cells), style="bold" if result.name == "best" else None)
    return table


def results_cells(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Returns headings and rows of the final table, with what each network costs beside the dense one."""
    dense = next(result for result in results if result.name == "dense")
    flops, params = (cost_name(kind, any(result.effective for result in results)) for kind in EFFECTIVE_KINDS)
    headings = ["network", "accuracy", "loss", flops, "of dense", params, "of dense", "latency"]
    rows = [_cells(result, dense) for result in results]
    if any(result.test for result in results):
        headings.append("test accuracy")
        for result, cells in zip(results, rows, strict=True):
            cells.append(f"{100 * result.test.accuracy:.2f} %" if result.test else "")
    if any(result.steps for result in results):
        headings.append("trained for")
        for result, cells in zip(results, rows, strict=True):
            cells.append(f"{result.steps:,} steps")
    if any(result.settings for result in results):
        headings.append("settings")
        for result, cells in zip(results, rows, strict=True):
            cells.append("\n".join(f"{name}={text_of(value)}" for name, value in result.settings.items()))
    return headings, rows


def _cells(result: Result, dense: Result) -> list[str]:
    cells = [
        result.name if result.number is None else f"{result.name} (trial {result.number})",
        f"{100 * result.validation.accuracy:.2f} %",
        f"{result.validation.loss:.4f}",
    ]
    for kind in EFFECTIVE_KINDS:
        cells += [short(result.costs[kind]), f"{100 * result.costs[kind] / dense.costs[kind]:.2f} %"]
    return [*cells, f"{result.latency_ms:.2f} ms"]


_NAMES: Mapping[str, str] = {"flops": "FLOPs", "params": "parameters", "size": "bytes"}


def cost_name(kind: str, effective: bool) -> str:
    """Returns what a cost is called where people read it."""
    return f"effective {_NAMES[kind]}" if effective and kind in EFFECTIVE_KINDS else _NAMES[kind]


def short(number: float) -> str:
    """Returns a number with a unit: 20.3 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number:.4g}"


def outcome_metrics(results: Sequence[Result], trials: Sequence[Trial]) -> dict[str, float]:
    """Returns the winner's numbers, and beside them those of the dense and the uniform network.

    Args:
        results: the final table, the dense network first and the best last.
    """
    dense, winner = results[0], results[-1]
    metrics: dict[str, float] = {
        "accuracy": winner.validation.accuracy,
        "loss": winner.validation.loss,
        **winner.costs,
        "flops_kept": winner.costs["flops"] / dense.costs["flops"],
        "params_kept": winner.costs["params"] / dense.costs["params"],
        "latency_ms": winner.latency_ms,
        "seconds": round(sum(round(trial.seconds, 3) for trial in trials), 3),
        "trials": len(trials),
        "failed_trials": sum(trial.failed for trial in trials),
    }
    for result in results:
        prefix = "" if result is winner else f"{result.name}_"
        metrics[f"{prefix}accuracy"] = result.validation.accuracy
        if result.test:
            metrics[f"{prefix}test_accuracy"] = result.test.accuracy
    return metrics
