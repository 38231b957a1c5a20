"""`autoprune search`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autoprune.commands import disk
from autoprune.commands.options import experiment_of, overrides
from autoprune.config import Experiment, load_experiment
from autoprune.errors import AutopruneError, Interrupted, UserError

if TYPE_CHECKING:
    from autoprune.running.conclusion import Conclusion
    from autoprune.running.folder import RunFolder


def run(arguments: argparse.Namespace) -> None:
    """Starts or resumes a search; prints the final table and the next commands.

    Options and files are checked before torch is imported, everything else before the run's folder is made.
    """
    from autoprune.running.folder import existing_folder, new_folder

    if arguments.resume is None:
        experiment = experiment_of(arguments, arguments.experiment, {"output": arguments.output})
        experiment.require_budget()
        folder = new_folder(experiment.output, experiment.task.name)
    else:
        _refuse_settings(arguments)
        folder = existing_folder(arguments.resume)
        experiment = load_experiment(folder.experiment, overrides(arguments))
    _report(_search(experiment, folder, resume=arguments.resume is not None), experiment)


def _search(experiment: Experiment, folder: RunFolder, resume: bool) -> Conclusion:
    from autoprune.running.progress import Display, training_progress
    from autoprune.running.session import make_tracker, resume_session, start_session
    from autoprune.running.setup import prepare

    display = Display()
    tracker = make_tracker(experiment)
    with _interruptible(folder):
        with training_progress(display, "training the default network once") as hook:
            setup = prepare(experiment, hook, display)
        session = resume_session if resume else start_session
        return session(setup, folder, tracker, display)


@contextmanager
def _interruptible(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if folder.ledger.exists():
            raise Interrupted(f"interrupted; {_how_to_resume(folder)}") from None
        raise Interrupted("interrupted before anything was evaluated") from None
    except OSError as fault:
        if disk.is_full(fault) and folder.experiment.exists():
            raise AutopruneError(f"the disk is full ({fault}); make room, then {_how_to_resume(folder)}") from fault
        raise


def _how_to_resume(folder: RunFolder) -> str:
    return f"continue with: {_command('search', '--resume', str(folder.path))}"


def _refuse_settings(arguments: argparse.Namespace) -> None:
    given = set(overrides(arguments)) - {"track.uri"}
    given |= {f"--set {text}" for text in arguments.set}
    given |= {str(value) for value in (arguments.experiment, arguments.output) if value is not None}
    if given:
        raise UserError(f"--resume takes all settings from the run's folder; leave out {', '.join(sorted(given))}")


def _report(conclusion: Conclusion, experiment: Experiment) -> None:
    from rich.console import Console

    from autoprune.reporting.results import results_table

    folder = str(conclusion.folder.path)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140, highlight=False).print(
        results_table(conclusion.results)
    )
    failed = sum(trial.score is None for trial in conclusion.trials)
    count = len(conclusion.trials)
    failures = f", {failed} of them failed" if failed else ""
    print(f"\n{count} trial{'' if count == 1 else 's'}{failures}; budget {experiment.budget}")
    print(f"run folder: {folder}\n\nnext:")
    print(f"  {_command('ui', folder)}")
    print(f"  {_command('apply', folder, '--output', 'pruned.pt')}")
    print(f"  {_command('evaluate', 'pruned.pt', *_task_options(experiment), '--split', 'test')}")


def _task_options(experiment: Experiment) -> list[str]:
    task = experiment.task
    options = [("--task", task.name), ("--data", task.data), ("--model", task.model)]
    return [part for name, value in options if value is not None for part in (name, str(value))]


def _command(*parts: str) -> str:
    return shlex.join(["autoprune", *parts])
