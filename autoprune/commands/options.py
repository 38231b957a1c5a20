"""From the options that commands share to an experiment, and back."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.config import Experiment, load_experiment
from autoprune.config.sections import typed_task
from autoprune.core.ledger import check_idle
from autoprune.errors import RunFolderError, UserError

if TYPE_CHECKING:
    from autoprune.running.run_folder import RunFolder


def experiment_of(
    arguments: argparse.Namespace, file: Path | None = None, defaults: Mapping[str, Any] | None = None
) -> Experiment:
    """Returns the experiment that a file and the options describe.

    Args:
        arguments: with `settings` (dotted key to value) and `set` (texts `key=value`, which win over them).
        file: YAML, over which options win; None for none.
        defaults: dotted key to value, over which options win too.

    Raises:
        ConfigError: something is wrong; every fault is listed.
    """
    return load_experiment(file, {**(defaults or {}), **arguments.settings}, arguments.set)


def resumed_run(arguments: argparse.Namespace, records: str, *others: object) -> tuple[RunFolder, Experiment]:
    """Returns the folder that `--resume` names and its experiment, after checking that the run can go on there.

    Args:
        arguments: with `resume`, beside which there may be no settings but where trials are evaluated and tracked.
        records: name of the file that the run's process writes to.
        others: further arguments that would be settings; None where not given.

    Raises:
        UserError: there are other settings, the folder is no run, or a process writes to it.
        LedgerWriteError: the folder cannot be written.
    """
    from autoprune.running.run_folder import existing_folder

    given = {key for key in arguments.settings if key == "run.device" or not key.startswith(("run.", "track."))}
    given |= {f"--set {text}" for text in arguments.set}
    given |= {str(value) for value in others if value is not None}
    if given:
        raise UserError(f"--resume takes all settings from the run's folder; leave out {', '.join(sorted(given))}")
    folder = existing_folder(arguments.resume, records)
    check_idle(folder.path / records)
    return folder, load_experiment(folder.experiment, arguments.settings)


def make_folder(folder: Path) -> bool:
    """Makes the folder that `--output` names; returns whether it was not there.

    Raises:
        RunFolderError: it cannot be made.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        reason = "it is a file" if isinstance(fault, FileExistsError) else fault.strerror
        raise RunFolderError(f"{folder} cannot be made ({reason}); name another folder with --output") from fault
    return is_new


def evaluating(file: str, experiment: Experiment, tested: bool) -> list[str]:
    """Returns the words of the command that evaluates a file: on test samples if the task has any.

    Args:
        file: a checkpoint.
        experiment: that made it.
        tested: whether there are test samples.
    """
    return ["evaluate", file, *typed_task(vars(experiment.task)), *(("--split", "test") if tested else ())]
