"""`autoprune apply`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.commands.interruption import is_full
from autoprune.commands.options import overrides
from autoprune.core.recipe import DISTILLATION
from autoprune.errors import TaskError, UserError
from autoprune.running.apply.source import find_source
from autoprune.tasks.training.plan import TrainingPlan

if TYPE_CHECKING:
    from autoprune.core.trial import Score
    from autoprune.running.apply.pruned_model import PrunedModel


def _fractions(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split("+"))


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


_INTEGER, _NUMBER = (int, "a whole number"), (float, "a number")
_SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "steps": _INTEGER,
    "epochs": _NUMBER,
    "rate": _NUMBER,
    "momentum": _NUMBER,
    "weight_decay": _NUMBER,
    "batch_size": _INTEGER,
    "seed": _INTEGER,
    "optimizer": (str, "a name"),
    "schedule": (str, "a name"),
    "milestones": (_fractions, "numbers with + between them, such as 0.5+0.75,"),
    "factor": _NUMBER,
    "warmup": _NUMBER,
    "channels_last": (_truth, "true or false"),
    "distill": _NUMBER,
    "temperature": _NUMBER,
}


def parse_plan(text: str) -> dict[str, Any]:
    """The fields of a `TrainingPlan` in `epochs=1,rate=0.02`, and `distill` and `temperature`; torch is not imported.

    Raises:
        UserError: an unknown setting, a value of another type, or values that make no plan.
    """
    plan: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if key not in _SETTINGS:
            raise UserError(f"--finetune {text}: unknown setting {key!r}; known: {', '.join(_SETTINGS)}")
        read, expected = _SETTINGS[key]
        try:
            plan[key] = read(value)
        except ValueError:
            raise UserError(f"--finetune {text}: {key} should be {expected} but is {value!r}") from None
    _check(text, plan)
    return plan


def _check(text: str, plan: dict[str, Any]) -> None:
    distillation = [key for key in DISTILLATION if key in plan]
    try:
        TrainingPlan(**{key: value for key, value in plan.items() if key not in distillation})
    except TaskError as fault:
        raise UserError(f"--finetune {text}: {fault}") from fault
    for key in ("steps", "epochs", *distillation):
        if key in plan and not (math.isfinite(plan[key]) and plan[key] > 0):
            raise UserError(f"--finetune {text}: {key} should be above 0 and finite but is {plan[key]:g}")
    if distillation == ["temperature"]:
        raise UserError(f"--finetune {text}: temperature belongs to distill, which is not given")


def run(arguments: argparse.Namespace) -> None:
    """Writes the smaller network of a run, a `best.yaml` or an MLflow run, and says what to expect of it."""
    plan = parse_plan(arguments.finetune) if arguments.finetune is not None else None
    _check_output(arguments)
    source = find_source(arguments.source, arguments.trial, arguments.tracking_uri)
    from autoprune.running.apply.apply import apply_source
    from autoprune.running.apply.pruned_model import ApplyOptions

    options = ApplyOptions(plan, arguments.force, arguments.reconstruct)
    pruned = apply_source(source, overrides(arguments), arguments.set, options)
    try:
        pruned.write(arguments.output)
    except OSError as fault:
        if is_full(fault):
            raise
        raise UserError(f"{arguments.output} cannot be written ({fault.strerror}); choose another --output") from fault
    pruned.check_written(arguments.output)
    try:
        exported = pruned.export(arguments.output, arguments.export) if arguments.export else None
    except UserError as fault:
        raise UserError(f"{arguments.output} is written, but {fault}") from fault
    _print(pruned, arguments.output, exported)


def _check_output(arguments: argparse.Namespace) -> None:
    """Checks that the files can probably be written, as the work before that may take hours.

    Raises:
        UserError: they cannot, or are there already and are not to be replaced.
    """
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


def _print(pruned: PrunedModel, output: Path, exported: Path | None) -> None:
    from autoprune.reporting.results import cost_name, short

    print(f"{output}: {pruned.origin}")
    for kind in ("flops", "params", "size"):
        cost, dense = pruned.costs[kind], pruned.dense_costs[kind]
        name, share = cost_name(kind, pruned.effective), 100 * cost / dense
        print(f"  {short(cost):>10} {name:10} {share:6.2f} % of the dense network's")
    print(f"  expect {_expectation(pruned)}")
    counted = "the search" if pruned.recorded.costs else "autoprune"
    print(f"  read back, it costs what {counted} counted")
    if pruned.recorded.remark:
        print(f"  {pruned.recorded.remark}")
    if exported is not None:
        print(f"{exported}: the same network, needs neither autoprune nor its own class")


def _expectation(pruned: PrunedModel) -> str:
    """Returns what accuracy to expect, and in brackets what the search had where that is something else."""
    now, then = pruned.measured(), pruned.recorded.score
    if then is not None and (pruned.as_scored or (not pruned.change and _agree(now, then))):
        return f"{_words(then)}, as in the search"
    if then is None:
        return _words(now)
    had = f"{100 * then.accuracy:.2f} % and {then.loss:.4f}"
    had += f" on {then.samples}" if then.samples not in (0, now.samples) else ""
    dropped = "in the search, which then dropped it" if pruned.recorded.dropped else "in the search"
    return f"{_words(now)} ({had} {pruned.change or dropped})"


def _words(score: Score) -> str:
    on = f" on {score.samples} validation samples" if score.samples else ""
    return f"{100 * score.accuracy:.2f} % accuracy and a loss of {score.loss:.4f}{on}"


def _agree(now: Score, then: Score) -> bool:
    """Returns whether two scores say the same but for rounding, on another machine too."""
    alike = math.isclose(now.loss, then.loss, rel_tol=1e-3) and math.isclose(now.accuracy, then.accuracy, abs_tol=5e-4)
    return alike and then.samples in (0, now.samples)
