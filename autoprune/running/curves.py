"""Where a run's sensitivity curves come from, and where they go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.config import Experiment
from autoprune.core.costs import CostTable
from autoprune.core.curve_file import beside, choose_curves, curves_from_json, curves_to_json, of_network
from autoprune.core.ledger import History, Ledger
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure, Score, outcome_to_json
from autoprune.errors import UserError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.sweep import Grid, Judged, Level, Record, SweepSettings, sweep, sweep_fingerprint
from autoprune.files import write_whole
from autoprune.reporting.plots import plot_sensitivity
from autoprune.running.folder import RunFolder
from autoprune.running.progress import Display
from autoprune.running.setup import Setup


def measure_curves(
    setup: Setup,
    evaluator: Evaluator,
    display: Display,
    grid: Grid,
    done: Mapping[Level, Judged],
    record: Record,
) -> SensitivityCurves:
    """The curves of a sweep over a grid; levels that are done are not judged again.

    Args:
        grid: group to the kept widths to judge.
        record: called with each level as it is judged.
    """
    settings = sweep_settings(setup.experiment)
    total = 1 + sum(len(widths) for widths in grid.values())
    with display.stage("sensitivity", total, len(done)) as advance:

        def note(group: str, width: int, judged: Judged) -> None:
            record(group, width, judged)
            advance(f"{group} at {width}" if group else "")

        def skip(group: str, width: int) -> None:
            advance(f"{group} ends above {width}")

        return sweep(evaluator, grid, settings, done, note, skip)


def sweep_settings(experiment: Experiment) -> SweepSettings:
    """How an experiment's sweep judges its levels."""
    section = experiment.sensitivity
    return SweepSettings(experiment.sweep_recipe(), section.images, section.stop, section.reuse)


def work_line(curves: SensitivityCurves, costs: CostTable) -> str:
    """One line on what a sweep cost, in judgements of the dense network on as many images."""
    unit = curves.dense.images * costs.dense()["flops"] // 2
    spent, naive = (curves.work or 0) / max(unit, 1), (curves.naive_work or 0) / max(unit, 1)
    return f"sweep: {spent:.1f} dense judgements of {curves.dense.images:,} images instead of {naive:.1f}"


def write_level(ledger: Ledger, group: str, width: int, judged: Judged) -> None:
    """Writes what became of a level, and what it cost, into a ledger.

    Raises:
        LedgerWriteError: it cannot be written.
    """
    ledger.write("level", group=group, width=width, **outcome_to_json(judged.outcome), work=judged.work)


def levels_in(history: History) -> dict[Level, Judged]:
    """The levels that a ledger holds."""
    return {
        (record["group"], record["width"]): Judged(_outcome(record), record.get("work"))
        for record in history.of("level")
    }


def _outcome(record: Mapping[str, Any]) -> Score | Failure:
    return Score.from_json(record["score"]) if "score" in record else Failure.from_json(record["failure"])


def read_curves(setup: Setup, evaluator: Evaluator, path: Path) -> SensitivityCurves:
    """Those curves of a file that were measured on this network, task and pruner.

    Raises:
        UserError: none were, they lack a group of the space, or the file holds none.
    """
    wanted = sweep_fingerprint(evaluator, setup.experiment.sweep_recipe(), setup.experiment.sensitivity.images)
    return choose_curves(_curves_at(path), wanted, setup.space.names, str(path))


def curves_beside(setup: Setup, folder: RunFolder) -> tuple[SensitivityCurves, ...]:
    """The curves in a folder's file that hold for the same network and data; none where there is no file.

    Raises:
        UserError: what stands there is no file of curves.
    """
    path = folder.sensitivity("json")
    return of_network(_curves_at(path), setup.identity) if path.exists() else ()


def _curves_at(path: Path) -> tuple[SensitivityCurves, ...]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} cannot be read as sensitivity curves: {fault}") from fault
    return curves_from_json(data, str(path))


def write_curves(curves: SensitivityCurves, folder: RunFolder, others: Sequence[SensitivityCurves] = ()) -> None:
    """Writes `sensitivity.json`, with other curves beside these, and `.csv` and `.png` of these alone."""
    content = json.dumps(curves_to_json(beside(others, curves)), indent=1)
    write_whole(folder.sensitivity("json"), f"{content}\n".encode())
    write_whole(folder.sensitivity("csv"), curves.to_csv().encode())
    plot_sensitivity(curves, folder.sensitivity("png"))
