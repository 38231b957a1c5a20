"""Runs side by side: what each came to, in one line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from autoprune.core.budget import EFFECTIVE_KINDS
from autoprune.core.trial import Failure, Score, Stopped, Trial
from autoprune.errors import printable
from autoprune.reporting.record import RunRecord
from autoprune.reporting.results import cost_name


@dataclass(frozen=True)
class Summary:
    """One line; None stands for what the ledger does not tell, or what is not known yet.

    Attributes:
        progress: how far it has come: `60 trials`, `12 of 60 trials`.
        evaluations: what it has cost, in evaluations of the dense network.
        kept: share of the dense network's cost that the best one keeps, by kind.
        seconds: while it ran, interruptions left out.
    """

    run: str
    state: str
    progress: str
    searcher: str | None
    pruner: str | None
    task: str | None
    model: str | None
    budget: str | None
    evaluations: float | None
    best: int | None
    loss: float | None
    accuracy: float | None
    test_accuracy: float | None
    kept: dict[str, float]
    seconds: float


def summarise(record: RunRecord) -> Summary:
    """Returns the line of one run."""
    result, score = record.best_result, record.best_validation
    identity = record.identity
    return Summary(
        record.name,
        record.state,
        progress(record),
        record.setting("search.searcher"),
        record.setting("pruner"),
        identity.get("task", record.setting("task.name")),
        identity.get("model", record.setting("task.model")),
        record.setting("budget"),
        record.evaluations,
        record.best.number if record.best else None,
        score.loss if score else None,
        score.accuracy if score else None,
        result.test.accuracy if result and result.test else None,
        kept_shares(record, record.best),
        record.seconds,
    )


def progress(record: RunRecord) -> str:
    """Returns how many trials there are, and of how many where that is planned."""
    count, planned = len(record.trials), _planned(record)
    trials = f"trial{'' if count == 1 else 's'}"
    if record.state == "finished" or planned is None:
        return f"{count} {trials}"
    return f"{count} of {planned} trials"


def _planned(record: RunRecord) -> int | None:
    planned: int | None = record.started.get("params", {}).get("trials") or record.setting("search.trials")
    return planned


def kept_shares(record: RunRecord, trial: Trial | None) -> dict[str, float]:
    """Returns, by kind of cost, the share of the dense network's that a trial keeps."""
    if trial is None or record.dense is None:
        return {}
    return {kind: cost / record.dense.costs[kind] for kind, cost in trial.costs.items() if kind in record.dense.costs}


def counts(record: RunRecord) -> str:
    """Returns how the trials ended: "20 trials, 5 of them dropped early, 1 failed"."""
    dropped = sum(isinstance(trial.outcome, Stopped) for trial in record.trials)
    failed = sum(trial.failed for trial in record.trials)
    parts = [f"{count} {what}" for count, what in ((dropped, "dropped early"), (failed, "failed")) if count]
    return progress(record) + (f" ({', '.join(parts)})" if parts else "")


def cells(record: RunRecord) -> dict[str, str]:
    """Returns the line of one run as text by heading; empty where nothing is known."""
    line = summarise(record)
    flops, params = (cost_name(kind, record.effective) for kind in EFFECTIVE_KINDS)
    state = line.state if line.state == "finished" else f"{line.state}, {line.progress}"
    return {
        "run": line.run,
        "state": state,
        "searcher": line.searcher or "",
        "pruner": line.pruner or "",
        "task": " ".join(filter(None, (line.task, line.model))),
        "budget": line.budget or "",
        "trials": str(len(record.trials)),
        "evaluations": "" if line.evaluations is None else f"{line.evaluations:.1f}",
        "loss": "" if line.loss is None else f"{line.loss:.4f}",
        "accuracy": percent(line.accuracy),
        "test": percent(line.test_accuracy),
        f"{flops} kept": percent(line.kept.get("flops")),
        f"{params} kept": percent(line.kept.get("params")),
        "time": duration(line.seconds),
    }


LEFT = ("run", "state", "searcher", "pruner", "task", "budget")
"""Headings of words; the others are of numbers, flush right."""


def summary_table(records: Sequence[RunRecord]) -> Table:
    """Returns a line a run for the terminal; columns in which all are equal are left to `shared`."""
    lines, same = [cells(record) for record in records], shared(records)
    headings = [heading for heading in headings_of(lines) if heading not in same]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in LEFT else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(printable(line.get(heading, "")) for heading in headings))
    return table


def headings_of(lines: Sequence[dict[str, str]]) -> list[str]:
    """Returns the headings under which at least one line says something, in order."""
    return list(dict.fromkeys(heading for line in lines for heading, text in line.items() if text))


def shared(records: Sequence[RunRecord]) -> dict[str, str]:
    """Returns the words under which all runs say the same, by heading."""
    lines = [cells(record) for record in records]
    alike = {heading: lines[0][heading] for heading in ("pruner", "task", "budget") if lines[0][heading]}
    return {heading: text for heading, text in alike.items() if all(line[heading] == text for line in lines)}


def mixture(records: Sequence[RunRecord]) -> str | None:
    """Returns what to say of runs that are not alike; None if they are."""
    named = {
        "tasks": {str(record.identity.get("task")) for record in records},
        "networks": {str(record.identity.get("model")) for record in records},
        "checkpoints": {str(record.identity.get("checkpoint")) for record in records},
        "budgets": {str(record.setting("budget")) for record in records},
    }
    different = [name for name, values in named.items() if len(values) > 1]
    if not different:
        return None
    return f"these runs have different {' and '.join(different)}: their accuracies do not compare directly"


def percent(share: float | None) -> str:
    """Returns a share as per cent; nothing where it is not known."""
    return "" if share is None else f"{100 * share:.2f} %"


def duration(seconds: float) -> str:
    """Returns a time for people: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


STATES = {Score: "scored", Stopped: "dropped", Failure: "failed"}


def trials_csv(records: Sequence[RunRecord]) -> str:
    """Returns one line a trial, run after run; a cell is empty where a trial has no such value.

    A trial that was dropped early has its scores on the samples until then; `samples` says how many.
    """
    rows = [row(record, trial) for record in records for trial in record.trials]
    fixed = ["run", "trial", "role", "parent", "state", "accuracy", "loss", "kl", "samples"]
    fixed += ["flops", "flops_kept", "params", "params_kept", "size", "size_kept", "seconds", "worker", "failure"]
    further = sorted({name for each in rows for name in each if name.startswith("setting.")})
    keeps = list(dict.fromkeys(name for each in rows for name in each if name.startswith("keep.")))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*fixed, *further, *keeps], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def row(record: RunRecord, trial: Trial) -> dict[str, Any]:
    """Returns one trial by column; what it does not have is left out."""
    outcome = trial.outcome
    score = outcome if isinstance(outcome, Score) else outcome.score if isinstance(outcome, Stopped) else None
    known = {
        "run": record.name,
        "trial": trial.number,
        "role": trial.candidate.role,
        "parent": trial.candidate.parent,
        "state": STATES[type(outcome)],
        "accuracy": score.accuracy if score else None,
        "loss": score.loss if score else None,
        "kl": score.kl if score else None,
        "samples": score.samples if score else None,
        **trial.costs,
        **{f"{kind}_kept": round(share, 6) for kind, share in kept_shares(record, trial).items()},
        "seconds": round(trial.seconds, 3),
        "worker": trial.worker,
        "failure": f"{outcome.kind}: {outcome.reason}" if isinstance(outcome, Failure) else None,
        **{f"setting.{name}": value for name, value in trial.candidate.settings.items()},
        **{f"keep.{group}": width for group, width in trial.candidate.allocation.items()},
    }
    return {name: value for name, value in known.items() if value is not None}
