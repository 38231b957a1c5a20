"""`autoprune search`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.commands.interruption import interruptible, typed
from autoprune.commands.options import evaluating, experiment_of, resumed_run
from autoprune.config import Experiment
from autoprune.core.ledger import NAME
from autoprune.core.trial import Stopped, Trial

if TYPE_CHECKING:
    from autoprune.running.run_folder import RunFolder
    from autoprune.running.search.results import Conclusion


def run(arguments: argparse.Namespace) -> None:
    """Starts or resumes a search; prints the final table and the next commands.

    Options and files are checked before torch is imported, everything else before the run's folder is made.
    """
    from autoprune.running.run_folder import new_folder

    if arguments.resume is None:
        experiment = experiment_of(arguments, arguments.experiment, {"output": arguments.output})
        experiment.require_budget()
        folder = new_folder(experiment.output, experiment.task.name)
    else:
        folder, experiment = resumed_run(arguments, NAME, arguments.experiment, arguments.output)
    _report(_search(experiment, folder, arguments), experiment)


def _search(experiment: Experiment, folder: RunFolder, arguments: argparse.Namespace) -> Conclusion:
    from autoprune.running.progress import Display
    from autoprune.running.search.session import resume_session, start_session
    from autoprune.running.setup import prepare
    from autoprune.running.tracking.tracker import tracking_of

    display = Display()
    tracking = tracking_of(experiment)
    with interruptible(folder.experiment, typed("search", "--resume", str(folder.path))):
        setup = prepare(experiment, display)
        session = start_session if arguments.resume is None else resume_session
        return session(setup, folder, tracking, display, arguments.typed)


def _report(conclusion: Conclusion, experiment: Experiment) -> None:
    from autoprune.errors import printable
    from autoprune.reporting.results import results_table
    from autoprune.reporting.terminal import plain_console

    folder = str(conclusion.folder.path)
    plain_console().print(results_table(conclusion.results, conclusion.metrics, conclusion.shown))
    print(f"\n{_count(conclusion.trials)}; budget {experiment.budget}")
    for line in conclusion.coverage.lines():
        print(printable(line))
    print(f"run folder: {folder}\n\nnext:")
    best = next(row for row in conclusion.results if row.name == "best")
    print(f"  {typed('ui', folder)}")
    print(f"  {typed('apply', folder, '--output', 'pruned.pt')}")
    print(f"  {typed(*evaluating('pruned.pt', experiment, bool(best.test)))}")
    if not (best.steps or best.effective or experiment.final_recipe().reconstruct or best.settings.get("reconstruct")):
        print(
            "\nThe network is not trained yet: apply --reconstruct 512 refits it by least squares, in seconds,\n"
            "--finetune epochs=1,rate=0.02 trains it"
        )


def _count(trials: Sequence[Trial]) -> str:
    """Returns how many trials there were, and of how many there is no score: "100 trials, 60 of them dropped early"."""
    dropped = sum(isinstance(trial.outcome, Stopped) for trial in trials)
    kinds = {"dropped early": dropped, "failed": sum(trial.failed for trial in trials)}
    parts = [f"{count} of them {kind}" for kind, count in kinds.items() if count]
    return ", ".join([f"{len(trials)} trial{'' if len(trials) == 1 else 's'}", *parts])
