"""Where a run's sensitivity curves come from, and where they go."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.core.ledger import History, Ledger
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure, Score, outcome_to_json
from autoprune.errors import UserError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.sweep import Level, Record, sweep, sweep_fingerprint
from autoprune.files import write_whole
from autoprune.reporting.plots import plot_sensitivity
from autoprune.running.folder import RunFolder
from autoprune.running.progress import Display
from autoprune.running.setup import Setup


def measure_curves(
    setup: Setup,
    evaluator: Evaluator,
    display: Display,
    grid: Mapping[str, Sequence[int]],
    done: dict[Level, Score | Failure],
    record: Record,
) -> SensitivityCurves:
    """The curves of a sweep over a grid; levels that are done are not judged again.

    Args:
        grid: group to the kept widths to judge.
        record: called with each level as it is judged.
    """
    settings = setup.experiment.sensitivity
    total = 1 + sum(len(widths) for widths in grid.values())
    with display.stage("sensitivity", total, len(done)) as advance:

        def note(group: str, width: int, outcome: Score | Failure) -> None:
            record(group, width, outcome)
            advance(f"{group} at {width}" if group else "")

        return sweep(evaluator, grid, setup.experiment.recipe(), settings.images, done, note)


def write_level(ledger: Ledger, group: str, width: int, outcome: Score | Failure, work: int) -> None:
    """Writes a level's outcome, and what it cost, into a ledger.

    Raises:
        LedgerWriteError: it cannot be written.
    """
    ledger.write("level", group=group, width=width, **outcome_to_json(outcome), work=work)


def levels_in(history: History) -> dict[Level, Score | Failure]:
    """The levels that a ledger holds."""
    return {(record["group"], record["width"]): _outcome(record) for record in history.of("level")}


def _outcome(record: Mapping[str, Any]) -> Score | Failure:
    return Score.from_json(record["score"]) if "score" in record else Failure.from_json(record["failure"])


def read_curves(setup: Setup, evaluator: Evaluator, path: Path) -> SensitivityCurves:
    """Curves from a file, if they were measured on this network, task and pruner.

    Raises:
        UserError: they were not, they lack a group of the space, or the file holds none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise UserError(f"{path} cannot be read as sensitivity curves: {fault}") from fault
    curves = SensitivityCurves.from_json(data, str(path))
    wanted = sweep_fingerprint(evaluator, setup.experiment.recipe(), curves.dense.images)
    changed = [key for key in wanted if curves.fingerprint.get(key) != wanted[key] and key != "seed"]
    if changed:
        raise UserError(f"{path} was measured with another {' and '.join(changed)}; leave it out to measure anew")
    missing = [name for name in setup.space.names if name not in curves.levels]
    if missing:
        raise UserError(f"{path} has no curve for group {', '.join(missing)}; measure anew with this search space")
    return curves


def write_curves(curves: SensitivityCurves, folder: RunFolder) -> None:
    """Writes `sensitivity.json`, `.csv` and `.png`."""
    write_whole(folder.sensitivity("json"), f"{json.dumps(curves.to_json(), indent=1)}\n".encode())
    write_whole(folder.sensitivity("csv"), curves.to_csv().encode())
    plot_sensitivity(curves, folder.sensitivity("png"))
