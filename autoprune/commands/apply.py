"""`autoprune apply`."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.commands import best_yaml, disk
from autoprune.commands.finetune import parse_plan
from autoprune.commands.options import overrides
from autoprune.config import load_experiment
from autoprune.errors import UserError

if TYPE_CHECKING:
    from autoprune.core.trial import Score
    from autoprune.running.applied import Applied
    from autoprune.running.wishes import Wishes


def run(arguments: argparse.Namespace) -> None:
    """Writes the smaller network of a run, a `best.yaml` or an MLflow run, and says what to expect of it."""
    plan = parse_plan(arguments.finetune) if arguments.finetune is not None else None
    _check_output(arguments)
    source, trial = _source(arguments)
    from autoprune.running.wishes import Wishes

    applied = _apply(source, trial, arguments, Wishes(plan, arguments.force, arguments.reconstruct))
    try:
        applied.write(arguments.output)
    except OSError as fault:
        if disk.is_full(fault):
            raise
        raise UserError(f"{arguments.output} cannot be written ({fault.strerror}); choose another --output") from fault
    applied.check_written(arguments.output)
    try:
        exported = applied.export(arguments.output, arguments.export) if arguments.export else None
    except UserError as fault:
        raise UserError(f"{arguments.output} is written, but {fault}") from fault
    _print(applied, arguments.output, exported)


def _apply(source: Path, trial: int | None, arguments: argparse.Namespace, wishes: Wishes) -> Applied:
    from autoprune.running import applying
    from autoprune.running.promise import Promise

    given = overrides(arguments)
    if source.is_dir():
        return applying.from_run(source, trial, given, arguments.set, wishes)
    best = best_yaml.read_best(source)
    experiment = load_experiment(None, {**best_yaml.defaults(best, arguments), **given}, arguments.set)
    settings = best_yaml.criteria(best, arguments.source)
    return applying.anew(best["widths"], experiment, settings, Promise.of_best(best), wishes, str(source))


def _check_output(arguments: argparse.Namespace) -> None:
    """Nothing, if the files can probably be written; the work before that may take hours."""
    path: Path = arguments.output
    if path.is_dir():
        raise UserError(f"{path} is a folder; --output names the file to write")
    exported = path.with_suffix(f".{arguments.export}") if arguments.export else path
    if arguments.export and exported == path:
        raise UserError(f"--export {arguments.export} writes {path} itself; give --output another suffix, such as .pt")
    there = [str(each) for each in dict.fromkeys([path, exported]) if os.path.lexists(each)]
    if there and not arguments.overwrite:
        raise UserError(f"{' and '.join(there)} exists already; choose another --output, or replace it by --overwrite")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"{path} cannot be written: {nearest} is no folder that you may write to")


def _source(arguments: argparse.Namespace) -> tuple[Path, int | None]:
    """A run's folder with the trial wanted, or a file of widths."""
    text: str = arguments.source
    if text.startswith("mlflow:"):
        from autoprune.running.mirrored_runs import find_run

        folder, number = find_run(text.removeprefix("mlflow:"), arguments.tracking_uri)
        return folder, number if arguments.trial is None else arguments.trial
    path = Path(text)
    if path.is_dir() and not (path / "experiment.yaml").is_file():
        raise UserError(f"{path} is no run of autoprune: it has no experiment.yaml; name a folder that a search wrote")
    if not path.exists():
        raise UserError(f"no such run or file: {path}; give a run's folder, a best.yaml or mlflow:RUN_ID")
    if path.is_file() and arguments.trial is not None:
        raise UserError("--trial picks from a run's folder; a file of widths holds one allocation")
    return path, arguments.trial


def _print(applied: Applied, output: Path, exported: Path | None) -> None:
    from autoprune.reporting.results import cost_name, short

    print(f"{output}: {applied.origin}")
    for kind in ("flops", "params", "size"):
        cost, dense = applied.costs[kind], applied.dense_costs[kind]
        name, share = cost_name(kind, applied.effective), 100 * cost / dense
        print(f"  {short(cost):>10} {name:10} {share:6.2f} % of the dense network's")
    print(f"  expect {_expectation(applied)}")
    counted = "the search" if applied.promise.costs else "autoprune"
    print(f"  read back, it costs what {counted} counted")
    if applied.promise.remark:
        print(f"  {applied.promise.remark}")
    if exported is not None:
        print(f"{exported}: the same network, needs neither autoprune nor its own class")


def _expectation(applied: Applied) -> str:
    """What accuracy to expect, and in brackets what the search had where that is something else."""
    now, then = applied.measured(), applied.promise.score
    if then is not None and (applied.scored or (not applied.change and _agree(now, then))):
        return f"{_words(then)}, as in the search"
    if then is None:
        return _words(now)
    had = f"{100 * then.accuracy:.2f} % and {then.loss:.4f}"
    had += f" on {then.images}" if then.images not in (0, now.images) else ""
    dropped = "in the search, which then dropped it" if applied.promise.dropped else "in the search"
    return f"{_words(now)} ({had} {applied.change or dropped})"


def _words(score: Score) -> str:
    on = f" on {score.images} validation images" if score.images else ""
    return f"{100 * score.accuracy:.2f} % accuracy and a loss of {score.loss:.4f}{on}"


def _agree(now: Score, then: Score) -> bool:
    """Whether two judgements say the same but for rounding, on another machine too."""
    alike = math.isclose(now.loss, then.loss, rel_tol=1e-3) and math.isclose(now.accuracy, then.accuracy, abs_tol=5e-4)
    return alike and then.images in (0, now.images)
