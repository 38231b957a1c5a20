"""`autoprune sensitivity`."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.commands.options import experiment_of, make_folder

if TYPE_CHECKING:
    from autoprune.config import Experiment


def run(arguments: argparse.Namespace) -> None:
    """Sweeps every group of the space and writes `sensitivity.json`, `.csv` and `.png`.

    Curves of the same network by other scorings stay in the `.json`, beside the new ones.

    Raises:
        UserError: an option, network or the data are at fault, or the folder cannot be made.
    """
    experiment = experiment_of(arguments)
    folder = Path(arguments.output or ".")
    is_new = make_folder(folder)  # before what takes long
    try:
        _sweep(experiment, folder)
    except BaseException:
        if is_new:
            with suppress(OSError):  # it holds curves
                folder.rmdir()
        raise


def _sweep(experiment: Experiment, folder: Path) -> None:
    from autoprune.core.sensitivity import sweep_grid
    from autoprune.running.progress import Display
    from autoprune.running.run_folder import RunFolder
    from autoprune.running.search.sensitivity import curves_beside, measure_curves, work_line, write_curves
    from autoprune.running.setup import prepare

    display = Display()
    setup = prepare(experiment, display)
    evaluator = setup.evaluator(setup.evaluation_config())
    grid = sweep_grid(setup.space, experiment.sensitivity.levels)
    others = curves_beside(setup, RunFolder(folder))
    curves = measure_curves(setup, evaluator, display, grid)
    write_curves(curves, RunFolder(folder), setup.metrics, others)
    for line in setup.coverage.lines():
        display.say(line)
    display.say(work_line(curves, setup.prunable.costs))
    for suffix in ("json", "csv", "png"):
        print(RunFolder(folder).sensitivity(suffix))
