"""Brings a run's mirror up to its ledger."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from autoprune import registry
from autoprune.config import load_experiment
from autoprune.errors import RunFolderError, UserError
from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint, rebuild
from autoprune.reporting.record import RunRecord, best_of, is_being_written, read_record
from autoprune.running.run_folder import RunFolder
from autoprune.running.setup import task_of
from autoprune.running.tracking.tracker import BestModel, Mirror, describe, outcome_of

log = logging.getLogger(__name__)


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
        outcome = outcome_of(RunFolder(folder), finished["best"], record.results, record.trials)
        mirror.finish(replace(outcome, model=_best_model(record, RunFolder(folder), finished["best"])))
    else:
        mirror.interrupt()
    return Completed(record, len(record.trials), added)


def _best_model(record: RunRecord, folder: RunFolder, number: int) -> BestModel | None:
    """The best trial's network from its file; None where the run was not to log it, or it cannot be built here."""
    path = folder.weights_of(number)
    if not record.setting("track.model", False) or not path.is_file():
        return None
    try:
        stored = read_checkpoint(path)
        if stored is None:
            return None
        bundled = stored.model in registry.MODELS
        network = rebuild(stored, None if bundled else task_of(load_experiment(folder.experiment)).network)
    except UserError as fault:
        log.warning("the best network is not logged as a model of MLflow, as it cannot be built here: %s", fault)
        return None
    return BestModel(number, network, stored.example_inputs())
