"""The trials of runs for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from autoprune.core.trial import Failure, Score, Stopped, Trial
from autoprune.reporting.record import RunRecord
from autoprune.reporting.summary import kept_shares

STATES = {Score: "scored", Stopped: "dropped", Failure: "failed"}


def trials_csv(records: Sequence[RunRecord]) -> str:
    """One line a trial, run after run; a cell is empty where a trial has no such value.

    A trial that was dropped early has its scores on the images until then; `images` says how many.
    """
    rows = [row(record, trial) for record in records for trial in record.trials]
    fixed = ["run", "trial", "role", "parent", "state", "accuracy", "loss", "kl", "images"]
    fixed += ["flops", "flops_kept", "params", "params_kept", "size", "size_kept", "seconds", "worker", "failure"]
    further = sorted({name for each in rows for name in each if name.startswith("setting.")})
    keeps = list(dict.fromkeys(name for each in rows for name in each if name.startswith("keep.")))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*fixed, *further, *keeps], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def row(record: RunRecord, trial: Trial) -> dict[str, Any]:
    """One trial by column; what it does not have is left out."""
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
        "images": score.images if score else None,
        **trial.costs,
        **{f"{kind}_kept": round(share, 6) for kind, share in kept_shares(record, trial).items()},
        "seconds": round(trial.seconds, 3),
        "worker": trial.worker,
        "failure": f"{outcome.kind}: {outcome.reason}" if isinstance(outcome, Failure) else None,
        **{f"setting.{name}": value for name, value in trial.candidate.settings.items()},
        **{f"keep.{group}": width for group, width in trial.candidate.allocation.items()},
    }
    return {name: value for name, value in known.items() if value is not None}
