"""`autoprune apply`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from autoprune import registry
from autoprune.commands.interruption import is_full
from autoprune.commands.options import overrides
from autoprune.config import load_experiment
from autoprune.core.recipe import DISTILLATION
from autoprune.core.settings import criterion_pattern
from autoprune.errors import TaskError, UserError
from autoprune.tasks.training.plan import TrainingPlan

if TYPE_CHECKING:
    from autoprune.core.trial import Score
    from autoprune.running.apply.pruned_model import Applied, ApplyOptions


def read_best(path: Path) -> dict[str, Any]:
    """What a `best.yaml` says.

    Raises:
        UserError: it is another file, or lacks what pruning needs.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise UserError(f"{path} cannot be read as YAML: {fault}") from fault
    missing = [
        key for key in ("widths", "task", "model", "pruner") if not isinstance(content, dict) or key not in content
    ]
    if missing:
        raise UserError(f"{path} is no best.yaml of autoprune: it lacks {', '.join(missing)}")
    return dict(content)


# Settings that may name the user's own code, with the option that names it.
_OWN_CODE = {"task.name": "task", "pruner": "pruner", "scoring.criterion": "criterion", "scoring.pattern": "pattern"}


def defaults(best: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the task, model, pruner and recipe of a `best.yaml`, as dotted keys of an experiment.

    A file never names code to run: the user's own code is imported only if the command line names it.

    Raises:
        UserError: the file names code that the command line does not, or widths of other weights.
    """
    _refuse_trained(best, arguments.source)
    recipe, scoring = _mapping(best, "recipe", arguments.source), _mapping(best, "scoring", arguments.source)
    defaults = {
        "task.name": best["task"],
        "task.model": best["model"],
        "pruner": best["pruner"],
        "evaluation.recalibrate.samples": recipe.get("recalibrate"),
        "evaluation.recalibrate.augment": recipe.get("augment"),
        "evaluation.reconstruct": recipe.get("reconstruct"),
        "evaluation.finetune": recipe.get("finetune"),
        "search.seed": scoring.pop("seed", None),
        **{f"scoring.{key}": value for key, value in scoring.items()},
    }
    given = {*overrides(arguments), *(text.partition("=")[0].strip() for text in arguments.set)}
    for key, kind in _OWN_CODE.items():
        value = defaults.get(key)
        if key not in given and isinstance(value, str) and _is_code(kind, value):
            option = "--task" if kind == "task" else f"--set {key}="
            raise UserError(f"{arguments.source} was made with {kind} {value!r}; name it with {option} to import it")
    # A model of the user's own belongs to the task.
    return {key: value for key, value in defaults.items() if key != "task.model" or not _is_code("model", str(value))}


def _is_code(kind: str, name: str) -> bool:
    return registry.is_own(kind, name) or (kind in ("task", "model") and ":" in name)


def _refuse_trained(best: dict[str, Any], source: str) -> None:
    """Nothing, if the dense weights are what was pruned: others lie in the run's folder alone."""
    parent = best.get("parent")
    if parent is None and not _mapping(best, "recipe", source).get("admm"):
        return
    why = "were trained before they were pruned" if parent is None else f"are those that trial {parent} left"
    raise UserError(
        f"{source} holds the widths, but not the weights that go with them, which {why}; "
        "apply the run's folder: autoprune apply RUN"
    )


def criteria(best: dict[str, Any], source: str) -> dict[str, Any]:
    """The criteria of single groups; all other settings are in its scoring and recipe, where options win over them.

    Raises:
        UserError: one is unknown, or the user's own code.
    """
    chosen = {n: value for n, value in _mapping(best, "settings", source).items() if criterion_pattern(str(n))}
    for value in chosen.values():
        if registry.is_own("criterion", registry.check("criterion", str(value))):
            raise UserError(
                f"{source} names criterion {value!r}, and no code is imported because a file names it; apply the run's "
                "folder: autoprune apply RUN"
            )
    return chosen


def _mapping(best: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    found = best.get(key, {})
    if not isinstance(found, dict):
        raise UserError(f"{source}: {key} should be a mapping but is {found!r}")
    return dict(found)


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
    source, trial = _source(arguments)
    from autoprune.running.apply.pruned_model import ApplyOptions

    applied = _apply(source, trial, arguments, ApplyOptions(plan, arguments.force, arguments.reconstruct))
    try:
        applied.write(arguments.output)
    except OSError as fault:
        if is_full(fault):
            raise
        raise UserError(f"{arguments.output} cannot be written ({fault.strerror}); choose another --output") from fault
    applied.check_written(arguments.output)
    try:
        exported = applied.export(arguments.output, arguments.export) if arguments.export else None
    except UserError as fault:
        raise UserError(f"{arguments.output} is written, but {fault}") from fault
    _print(applied, arguments.output, exported)


def _apply(source: Path, trial: int | None, arguments: argparse.Namespace, options: ApplyOptions) -> Applied:
    from autoprune.running.apply import apply as applying
    from autoprune.running.apply.recorded_result import RecordedResult

    given = overrides(arguments)
    if source.is_dir():
        return applying.from_run(source, trial, given, arguments.set, options)
    best = read_best(source)
    experiment = load_experiment(None, {**defaults(best, arguments), **given}, arguments.set)
    settings = criteria(best, arguments.source)
    return applying.anew(best["widths"], experiment, settings, RecordedResult.of_best(best), options, str(source))


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
        from autoprune.running.tracking.mlflow_runs import find_run

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
    counted = "the search" if applied.recorded.costs else "autoprune"
    print(f"  read back, it costs what {counted} counted")
    if applied.recorded.remark:
        print(f"  {applied.recorded.remark}")
    if exported is not None:
        print(f"{exported}: the same network, needs neither autoprune nor its own class")


def _expectation(applied: Applied) -> str:
    """What accuracy to expect, and in brackets what the search had where that is something else."""
    now, then = applied.measured(), applied.recorded.score
    if then is not None and (applied.scored or (not applied.change and _agree(now, then))):
        return f"{_words(then)}, as in the search"
    if then is None:
        return _words(now)
    had = f"{100 * then.accuracy:.2f} % and {then.loss:.4f}"
    had += f" on {then.samples}" if then.samples not in (0, now.samples) else ""
    dropped = "in the search, which then dropped it" if applied.recorded.dropped else "in the search"
    return f"{_words(now)} ({had} {applied.change or dropped})"


def _words(score: Score) -> str:
    on = f" on {score.samples} validation samples" if score.samples else ""
    return f"{100 * score.accuracy:.2f} % accuracy and a loss of {score.loss:.4f}{on}"


def _agree(now: Score, then: Score) -> bool:
    """Whether two judgements say the same but for rounding, on another machine too."""
    alike = math.isclose(now.loss, then.loss, rel_tol=1e-3) and math.isclose(now.accuracy, then.accuracy, abs_tol=5e-4)
    return alike and then.samples in (0, now.samples)
