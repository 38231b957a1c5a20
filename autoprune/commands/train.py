"""`autoprune train`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoprune.commands.interruption import interruptible, typed
from autoprune.commands.options import evaluating, experiment_of, resumed_run
from autoprune.config import Experiment
from autoprune.config.schedule import load_schedule
from autoprune.core.metrics import LOSS
from autoprune.errors import UserError

if TYPE_CHECKING:
    from autoprune.core.trial import Score
    from autoprune.running.training import TrainingResult


def run(arguments: argparse.Namespace) -> None:
    """Trains by a schedule, or goes on with a training; prints the result and the next commands.

    Options and files are checked before torch is imported, everything else before the folder is made.

    Raises:
        UserError: an option, file, network or the data are at fault.
    """
    from autoprune.running.run_folder import new_folder

    if arguments.resume is not None:
        scratch = "--scratch" if arguments.scratch else None
        folder, experiment = resumed_run(arguments, "training.jsonl", arguments.schedule, arguments.output, scratch)
    elif arguments.schedule is None:
        raise UserError("--schedule is needed: a YAML file that says what is pruned and when, or --resume DIR")
    else:
        load_schedule(arguments.schedule)
        experiment = experiment_of(arguments, None, {"output": arguments.output})
        folder = new_folder(experiment.output, f"train-{experiment.task.name}")
    from autoprune.running.progress import Display
    from autoprune.running.tracking.tracker import tracking_of
    from autoprune.running.training import resume_training, start_training

    display, tracking = Display(), tracking_of(experiment)
    resume = typed("train", "--resume", str(folder.path))
    with interruptible(folder.experiment, resume):
        if arguments.resume is not None:
            result = resume_training(experiment, folder, tracking, display)
        else:
            result = start_training(experiment, arguments.schedule, folder, tracking, display, arguments.scratch)
    _report(result, experiment)


def _report(result: TrainingResult, experiment: Experiment) -> None:
    """Prints metrics and costs before and after, and the next commands."""
    from autoprune.reporting.results import percent, short
    from autoprune.reporting.terminal import plain_console, text_table

    def cells(costs: Mapping[str, int]) -> list[str]:
        return [short(costs["flops"]), short(costs["params"])]

    dense, final = result.dense, result.final
    shown = [*result.metrics, LOSS]
    tested = shown[0] if result.test else None

    def measured(score: Score) -> list[str]:
        return [each.text(score.get(each.name)) for each in shown]

    test = [tested.text(result.test.get(tested.name))] if tested and result.test else []
    rows = [
        ["before", *measured(dense), *cells(result.dense_costs), *("" for _ in test)],
        ["trained", *measured(final), *cells(result.costs), *test],
    ]
    if result.effective:
        rows.append(["effective, without zeros", *("" for _ in shown), *cells(result.effective), *("" for _ in test)])
    names = [each.name.replace("_", " ") for each in shown]
    headings = ["network", *names, "FLOPs", "parameters", *(f"test {names[0]}" for _ in test)]
    plain_console().print(text_table(headings, rows, ["network"]))
    for name, share in result.sparsity.items():
        print(f"{name}: {percent(share)} of its structures pruned")
    if result.sparsity:
        left, dense_costs = result.effective or result.costs, result.dense_costs
        gone = {kind: percent(1 - left[kind] / dense_costs[kind]) for kind in ("params", "flops")}
        print(f"of the whole network: {gone['params']} of the parameters and {gone['flops']} of the FLOPs pruned")
    final_file = str(result.file)
    print(f"run folder: {result.file.parent}\n\nnext:")
    print(f"  {typed('evaluate', final_file, '--sparsity-table')}")
    print(f"  {typed('apply', str(result.file.parent), '--output', 'trained.pt', '--export', 'pt2')}")
    print(f"  {typed(*evaluating(final_file, experiment, bool(result.test)))}")
