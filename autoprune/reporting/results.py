"""The rows of a run's final table: dense, uniform at the same budget, best found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from autoprune.core.budget import EFFECTIVE_KINDS
from autoprune.core.ledger import History
from autoprune.core.metrics import LOSS, MetricInfo
from autoprune.core.settings import format_setting
from autoprune.core.trial import Score, Setting, Trial
from autoprune.files import csv_text
from autoprune.reporting.terminal import text_table


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
        """Returns the fields of its record in a ledger."""
        scores = {"validation": self.validation.to_json(), "test": self.test.to_json() if self.test else None}
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, **scores}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Result:
        """Returns the row that `to_json` wrote; further fields of the record are ignored."""
        fields = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        fields["validation"] = Score.from_json(data["validation"])
        fields["test"] = Score.from_json(data["test"]) if data["test"] else None
        return cls(**fields)


def results_in(history: History) -> list[Result]:
    """Returns the final table that a ledger holds; of each name the newest row."""
    return list({record["name"]: Result.from_json(record) for record in history.of("result")}.values())


def results_csv(results: Sequence[Result]) -> str:
    """Returns the final table as CSV: plain numbers, one line a network."""
    effective = any(result.effective for result in results)
    kinds, searched = list(results[0].costs), list(results[-1].settings)
    costs = [f"effective_{kind}" if effective and kind in EFFECTIVE_KINDS else kind for kind in kinds]
    measured = list(results[0].validation.numbers())
    tested = [f"test_{name}" for name in measured] if any(result.test for result in results) else []
    headings = ["network", "trial", *measured, *tested, *costs, "latency_ms", "training_steps"]
    rows: list[list[object]] = []
    for result in results:
        test = [result.test.get(name) if result.test else None for name in measured] if tested else []
        rows.append([result.name, result.number, *(result.validation.get(name) for name in measured), *test])
        rows[-1] += [result.costs[kind] for kind in kinds]
        rows[-1] += [result.latency_ms, result.steps]
        rows[-1] += [format_setting(result.settings.get(name, "")) for name in searched]
    return csv_text([*headings, *(f"settings.{name}" for name in searched)], rows)


def results_table(results: Sequence[Result], metrics: Sequence[MetricInfo], shown: MetricInfo) -> Table:
    """Returns the final table for the terminal, the best network in bold.

    Args:
        results: the dense network first, the best last.
        metrics: the task's.
        shown: the one that is shown of the test samples too.
    """
    headings, rows = results_cells(results, metrics, shown)
    best = [i for i, result in enumerate(results) if result.name == "best"]
    return text_table(headings, rows, ("network", "settings"), best)


def results_cells(
    results: Sequence[Result], metrics: Sequence[MetricInfo], shown: MetricInfo
) -> tuple[list[str], list[list[str]]]:
    """Returns headings and rows of the final table, with what each network costs beside the dense one.

    Columns in which there would be nothing are left out.

    Args:
        results: the dense network first, the best last.
        metrics: the task's.
        shown: the one that is shown of the test samples too.
    """
    dense = next(result for result in results if result.name == "dense")
    effective, trained = any(result.effective for result in results), any(result.steps for result in results)
    columns = [
        ("network", [f"{r.name} (trial {r.number})" if r.number is not None else r.name for r in results]),
        *((heading(each), [each.text(r.validation.get(each.name)) for r in results]) for each in (*metrics, LOSS)),
    ]
    for kind in EFFECTIVE_KINDS:
        columns.append((cost_name(kind, effective), [short(r.costs[kind]) for r in results]))
        columns.append(("of dense", [percent(r.costs[kind] / dense.costs[kind]) for r in results]))
    columns += [
        ("latency", [f"{r.latency_ms:.2f} ms" for r in results]),
        (f"test {heading(shown)}", [shown.text(r.test.get(shown.name) if r.test else None) for r in results]),
        ("trained for", [f"{r.steps:,} steps" if trained else "" for r in results]),
        ("settings", ["\n".join(f"{name}={format_setting(v)}" for name, v in r.settings.items()) for r in results]),
    ]
    filled = [(title, cells) for title, cells in columns if any(cells)]
    return [title for title, _ in filled], [list(row) for row in zip(*(cells for _, cells in filled), strict=True)]


def heading(metric: MetricInfo) -> str:
    """Returns what a metric is called where people read it."""
    return metric.name.replace("_", " ")


_NAMES: Mapping[str, str] = {"flops": "FLOPs", "params": "parameters", "size": "bytes"}


def cost_name(kind: str, effective: bool) -> str:
    """Returns what a cost is called where people read it."""
    return f"effective {_NAMES[kind]}" if effective and kind in EFFECTIVE_KINDS else _NAMES[kind]


def percent(share: float | None) -> str:
    """Returns a share as per cent; nothing where it is not known."""
    return "" if share is None else f"{100 * share:.2f} %"


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
        trials: all of the run; their seconds are added up.
    """
    dense, winner = results[0], results[-1]
    metrics: dict[str, float] = {
        **winner.validation.numbers(),
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
        metrics |= {f"{prefix}{name}": value for name, value in result.validation.metrics.items()}
        if result.test:
            metrics |= {f"{prefix}test_{name}": value for name, value in result.test.metrics.items()}
    return metrics
