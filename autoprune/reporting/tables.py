"""Runs side by side: what each came to, in one line; and their trials, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoprune.core.budget import EFFECTIVE_KINDS
from autoprune.core.metrics import LOSS
from autoprune.core.trial import Failure, Score, Stopped, Trial
from autoprune.files import csv_text
from autoprune.reporting.record import RunRecord
from autoprune.reporting.results import cost_name, percent


def progress(record: RunRecord) -> str:
    """Returns how many trials there are, and of how many where that is planned."""
    count = len(record.trials)
    planned = record.started.get("params", {}).get("trials") or record.setting("search.trials")
    if record.state == "finished" or planned is None:
        return f"{count} trial{'' if count == 1 else 's'}"
    return f"{count} of {planned} trials"


def counts(record: RunRecord) -> str:
    """Returns how the trials ended: "20 trials (5 dropped early, 1 failed)"."""
    dropped = sum(isinstance(trial.outcome, Stopped) for trial in record.trials)
    failed = sum(trial.failed for trial in record.trials)
    parts = [f"{count} {what}" for count, what in ((dropped, "dropped early"), (failed, "failed")) if count]
    return progress(record) + (f" ({', '.join(parts)})" if parts else "")


def cells(record: RunRecord) -> dict[str, str]:
    """Returns the line of one run as text by heading; empty where nothing is known."""
    score, kept = record.best_validation, record.kept(record.best)
    state = record.state if record.state == "finished" else f"{record.state}, {progress(record)}"
    return {
        "run": record.name,
        "state": state,
        "searcher": record.setting("search.searcher", ""),
        "pruner": record.setting("pruner", ""),
        "task": " ".join(filter(None, (record.task, record.model))),
        "budget": record.setting("budget", ""),
        "trials": str(len(record.trials)),
        "evaluations": "" if record.evaluations is None else f"{record.evaluations:.1f}",
        "loss": LOSS.text(score.loss if score else None),
        **{each.name.replace("_", " "): each.text(score.get(each.name) if score else None) for each in record.metrics},
        f"test {record.primary.name.replace('_', ' ')}": record.primary.text(record.tested("best")),
        **{f"{cost_name(kind, record.effective)} kept": percent(kept.get(kind)) for kind in EFFECTIVE_KINDS},
        "time": duration(record.seconds),
    }


LEFT = ("run", "state", "searcher", "pruner", "task", "budget")
"""Headings of words; the others are of numbers, flush right."""


def compared(records: Sequence[RunRecord]) -> tuple[list[str], list[list[str]], str]:
    """Returns headings and rows of a table with a line a run, and in words under which headings all say the same.

    The table leaves these out, and columns in which there would be nothing.
    """
    lines = [cells(record) for record in records]
    same = {
        heading: lines[0][heading]
        for heading in ("pruner", "task", "budget")
        if lines[0][heading] and len({line[heading] for line in lines}) == 1
    }
    filled = (heading for line in lines for heading, text in line.items() if text and heading not in same)
    headings = list(dict.fromkeys(filled))
    rows = [[line.get(heading, "") for heading in headings] for line in lines]
    return headings, rows, ", ".join(f"{heading} {text}" for heading, text in same.items())


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
    return f"these runs have different {' and '.join(different)}: their numbers do not compare directly"


def duration(seconds: float) -> str:
    """Returns a time for people: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


_STATES = {Score: "scored", Stopped: "dropped", Failure: "failed"}


def trials_csv(records: Sequence[RunRecord]) -> str:
    """Returns one line a trial, run after run; a cell is empty where a trial has no such value.

    A trial that was dropped early has its scores on the samples until then; `samples` says how many.
    """
    rows = [_row(record, trial) for record in records for trial in record.trials]
    metrics = dict.fromkeys(each.name for record in records for each in record.metrics)
    fixed = ["run", "trial", "role", "parent", "state", *metrics, "loss", "kl", "samples"]
    fixed += ["flops", "flops_kept", "params", "params_kept", "size", "size_kept", "seconds", "worker", "failure"]
    further = sorted({name for row in rows for name in row if name.startswith("setting.")})
    keeps = dict.fromkeys(name for row in rows for name in row if name.startswith("keep."))
    headings = [*fixed, *further, *keeps]
    return csv_text(headings, ([row.get(heading) for heading in headings] for row in rows))


def _measured(outcome: Score | Stopped) -> dict[str, float]:
    score = outcome.score if isinstance(outcome, Stopped) else outcome
    return {**score.numbers(), "samples": score.samples}


def _row(record: RunRecord, trial: Trial) -> dict[str, Any]:
    """Returns one trial by column."""
    outcome = trial.outcome
    return {
        "run": record.name,
        "trial": trial.number,
        "role": trial.candidate.role,
        "parent": trial.candidate.parent,
        "state": _STATES[type(outcome)],
        **({} if isinstance(outcome, Failure) else _measured(outcome)),
        **trial.costs,
        **{f"{kind}_kept": round(share, 6) for kind, share in record.kept(trial).items()},
        "seconds": round(trial.seconds, 3),
        "worker": trial.worker,
        "failure": f"{outcome.kind}: {outcome.reason}" if isinstance(outcome, Failure) else None,
        **{f"setting.{name}": value for name, value in trial.candidate.settings.items()},
        **{f"keep.{group}": width for group, width in trial.candidate.allocation.items()},
    }
