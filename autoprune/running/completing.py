"""Brings a run's mirror up to its ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoprune.errors import RunFolderError
from autoprune.reporting.record import RunRecord, best_of, read_record
from autoprune.reporting.state import is_being_written
from autoprune.running.folder import RunFolder
from autoprune.running.tracking import Mirror, describe, outcome_of


@dataclass(frozen=True)
class Completed:
    """What was done.

    Attributes:
        trials: how many trials the ledger holds.
        added: how many of them the mirror did not have.
    """

    record: RunRecord
    trials: int
    added: int


def complete(folder: Path, mirror: Mirror) -> Completed:
    """Mirrors what the mirror lacks of a run; done twice, the second time adds nothing.

    Raises:
        RunFolderError: the folder is no run, its ledger is damaged, or a process writes to it, which mirrors it itself.
    """
    record = read_record(folder)
    if is_being_written(folder):
        raise RunFolderError(f"{folder} is being written by a search, which mirrors it itself; wait for its end")
    if not record.history.records or record.dense is None:
        raise RunFolderError(f"{folder} has nothing to mirror yet: its ledger has no dense network")
    known, best, added = mirror.open(describe(record)), None, 0
    for step, trial in enumerate(record.trials, start=1):
        best = best_of(best, trial, record.objective)
        if trial.number not in known:
            mirror.told(trial, record.told_at[trial.number], step, best)
            added += 1
    finished = record.history.last("finished")
    if finished is not None and record.results:
        mirror.finish(outcome_of(RunFolder(folder), finished["best"], record.results, record.trials))
    else:
        mirror.interrupt()
    return Completed(record, len(record.trials), added)
