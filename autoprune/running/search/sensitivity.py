"""A run's sensitivity curves: swept or read, and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprune.config import Experiment
from autoprune.core.costs import CostTable
from autoprune.core.metrics import LOSS, MetricInfo
from autoprune.core.sensitivity import (
    SensitivityCurves,
    add_curves,
    choose_curves,
    curves_from_json,
    curves_of_network,
    curves_to_json,
)
from autoprune.core.trial import Failure
from autoprune.errors import UserError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import EvaluationResult
from autoprune.evaluation.sensitivity.sweep import Grid, Level, Levels, Record, Sweep, SweepSettings, sweep_fingerprint
from autoprune.files import parse_json, read_whole, write_whole
from autoprune.reporting.drawing import png
from autoprune.reporting.figures import sensitivity_figure
from autoprune.running.execution.inline import run_inline
from autoprune.running.execution.jobs import Stages, Step, SweepJob, WorkerContext
from autoprune.running.progress import Display
from autoprune.running.run_folder import RunFolder
from autoprune.running.setup import Setup


@dataclass(frozen=True)
class SweepStage:
    """A sweep as a stage: a job for each group."""

    sweep: Sweep

    def next(self) -> SweepJob | None:
        """Returns the levels of the next group that has any to evaluate; None if all are handed out."""
        group_sweep = self.sweep.next()
        return None if group_sweep is None else SweepJob(group_sweep)

    def take(self, job: SweepJob, result: Step) -> None:
        """Takes the result of a level, which is recorded unless it is known."""
        self.sweep.take(job.group_sweep, *result)

    def lost(self, job: SweepJob, failure: Failure, seconds: float, worker: str) -> None:
        """Records a failure of the job's first level unless that is known, and hands the others out again.

        Args:
            job: the levels of a group.
            failure: what ended it.
            seconds: that the failed level took.
            worker: the name of the process that had it.
        """
        self.sweep.lost(job.group_sweep, failure)


def sweep_curves(
    levels: Levels, display: Display, done: Mapping[Level, EvaluationResult], record: Record
) -> Stages[SensitivityCurves]:
    """Runs a sweep as a stage, and returns its curves; levels that are done are not evaluated again.

    The dense network, to which all levels are compared, is evaluated here.

    Args:
        levels: evaluates the dense network, and says what levels cost.
        display: shows progress.
        done: results of levels that were evaluated before.
        record: called with each level as it is evaluated.

    Raises:
        TaskError: the dense network fails after the recipe.
    """
    total = 1 + sum(len(widths) for widths in levels.grid.values())
    with display.stage("sensitivity", total, len(done)) as advance:

        def note(group: str, width: int, result: EvaluationResult) -> None:
            record(group, width, result)
            advance(f"{group} at {width}" if group else "")

        def skip(group: str, width: int) -> None:
            advance(f"{group} ends above {width}")

        sweep = Sweep(levels, done, note, skip)
        yield SweepStage(sweep)
    return sweep.curves()


def measure_curves(setup: Setup, evaluator: Evaluator, display: Display, grid: Grid) -> SensitivityCurves:
    """Returns the curves of a sweep, by this process and for no run.

    Args:
        setup: says how levels are evaluated.
        evaluator: with the data.
        display: shows progress.
        grid: group to the kept widths that are evaluated.

    Raises:
        TaskError: the dense network fails after the recipe.
    """
    context = WorkerContext(evaluator, grid, sweep_settings(setup.experiment))
    return run_inline(sweep_curves(context.levels, display, {}, lambda *_: None), context)


def sweep_settings(experiment: Experiment) -> SweepSettings:
    """Returns how an experiment's sweep evaluates its levels."""
    section = experiment.sensitivity
    return SweepSettings(experiment.sweep_recipe(), section.samples, section.stop, section.reuse)


def work_line(curves: SensitivityCurves, costs: CostTable) -> str:
    """Returns one line on what a sweep cost, in evaluations of the dense network on as many samples."""
    unit = curves.dense.samples * costs.dense()["flops"] // 2
    spent, naive = (curves.work or 0) / max(unit, 1), (curves.naive_work or 0) / max(unit, 1)
    return f"sweep: {spent:.1f} dense evaluations of {curves.dense.samples:,} samples instead of {naive:.1f}"


def read_curves(setup: Setup, evaluator: Evaluator, path: Path) -> SensitivityCurves:
    """Returns the curves of a file that were measured on this network, task and pruner.

    Args:
        setup: the network and the experiment's way of sweeping.
        evaluator: says on which task and data.
        path: a `sensitivity.json`.

    Raises:
        UserError: none were, they lack a group of the space, or the file holds none.
    """
    wanted = sweep_fingerprint(evaluator, setup.experiment.sweep_recipe(), setup.experiment.sensitivity.samples)
    return choose_curves(_curves_in(path), wanted, setup.space, str(path))


def curves_beside(setup: Setup, folder: RunFolder) -> tuple[SensitivityCurves, ...]:
    """Returns the curves in a folder's file that hold for the same network and data; none where there is no file.

    Raises:
        UserError: what stands there is no file of curves.
    """
    path = folder.sensitivity("json")
    return curves_of_network(_curves_in(path), setup.identity) if path.exists() else ()


def _curves_in(path: Path) -> tuple[SensitivityCurves, ...]:
    try:
        data = parse_json(read_whole(path))
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} cannot be read as sensitivity curves: {fault}") from fault
    return curves_from_json(data, str(path))


def write_curves(
    curves: SensitivityCurves,
    folder: RunFolder,
    metrics: Sequence[MetricInfo],
    others: Sequence[SensitivityCurves] = (),
) -> None:
    """Writes `sensitivity.json`, with other curves beside these, and `.csv` and `.png` of these alone.

    Args:
        curves: of one scoring.
        folder: where the files go.
        metrics: the task's; the first is drawn beside the loss.
        others: curves of the same network by other scorings.
    """
    content = json.dumps(curves_to_json(add_curves(others, curves)), indent=1)
    write_whole(folder.sensitivity("json"), f"{content}\n".encode())
    write_whole(folder.sensitivity("csv"), curves.to_csv().encode())
    png(sensitivity_figure(curves, LOSS, *metrics[:1]), folder.sensitivity("png"))
