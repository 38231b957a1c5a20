"""`autoprune apply`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from autoprune import registry
from autoprune.commands import disk
from autoprune.commands.finetune import parse_plan
from autoprune.commands.options import overrides
from autoprune.config import load_experiment
from autoprune.core.settings import criterion_pattern
from autoprune.errors import UserError

if TYPE_CHECKING:
    from autoprune.running.applying import Applied


def run(arguments: argparse.Namespace) -> None:
    """Writes the smaller network of a run, a `best.yaml` or an MLflow run, and says what it is."""
    plan = parse_plan(arguments.finetune) if arguments.finetune is not None else None
    _check_output(arguments.output)
    given = overrides(arguments)
    source, trial = _source(arguments)
    from autoprune.running import applying

    if (source / "experiment.yaml").is_file():
        applied = applying.from_run(source, trial, given, arguments.set, plan)
    else:
        best = _read_best(source)
        experiment = load_experiment(None, {**_defaults(best, arguments), **given}, arguments.set)
        settings = _criteria(best, arguments.source)
        applied = applying.anew(best["widths"], experiment, experiment.recipe(), plan, settings=settings)
    try:
        applied.write(arguments.output)
    except OSError as fault:
        if disk.is_full(fault):
            raise
        raise UserError(f"{arguments.output} cannot be written ({fault.strerror}); choose another --output") from fault
    exported = applied.export(arguments.output, arguments.export) if arguments.export else None
    _print(applied, arguments.output, exported)


def _check_output(path: Path) -> None:
    """Nothing, if the file can probably be written; the work before that may take hours."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; --output names the file to write")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"{path} cannot be written: {nearest} is no folder that you may write to")


def _source(arguments: argparse.Namespace) -> tuple[Path, int | None]:
    """A run's folder with the trial wanted, or a file of widths."""
    text: str = arguments.source
    if text.startswith("mlflow:"):
        from autoprune.running.mlflow_tracker import find_run

        folder, number = find_run(text.removeprefix("mlflow:"), arguments.tracking_uri)
        if not folder.is_dir():
            raise UserError(f"{text} mirrors the run {folder}, which is not on this machine")
        return folder, number if arguments.trial is None else arguments.trial
    path = Path(text)
    if path.is_dir() and not (path / "experiment.yaml").is_file():
        raise UserError(f"{path} is no run of autoprune: it has no experiment.yaml")
    if not path.exists():
        raise UserError(f"no such run or file: {path}; give a run's folder, a best.yaml or mlflow:RUN_ID")
    if path.is_file() and arguments.trial is not None:
        raise UserError("--trial picks from a run's folder; a file of widths holds one allocation")
    return path, arguments.trial


def _read_best(path: Path) -> dict[str, Any]:
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


def _defaults(best: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """What a `best.yaml` says of task, model, pruner and recipe: a file names no code to run, the user does."""
    if arguments.task is None and isinstance(best["task"], str) and ":" in best["task"]:
        raise UserError(f"{arguments.source} was made on task {best['task']!r}; name it with --task to import it")
    _refuse_trained(best, arguments.source)
    recipe, scoring = _mapping(best, "recipe", arguments.source), _mapping(best, "scoring", arguments.source)
    defaults = {
        "task.name": best["task"],
        "task.model": best["model"],
        "pruner": best["pruner"],
        "evaluation.recalibrate.images": recipe.get("recalibrate"),
        "evaluation.recalibrate.augment": recipe.get("augment"),
        "evaluation.reconstruct": recipe.get("reconstruct"),
        "evaluation.finetune": recipe.get("finetune"),
        "search.seed": scoring.pop("seed", None),
        **{f"scoring.{key}": value for key, value in scoring.items()},
    }
    return {key: value for key, value in defaults.items() if not isinstance(value, str) or ":" not in value}


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


def _criteria(best: dict[str, Any], source: str) -> dict[str, Any]:
    """The criteria of single groups; all other settings are in its scoring and recipe, where options win over them.

    Raises:
        UserError: one is unknown.
    """
    chosen = {n: value for n, value in _mapping(best, "settings", source).items() if criterion_pattern(str(n))}
    for value in chosen.values():
        registry.check("criterion", str(value))
    return chosen


def _mapping(best: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    found = best.get(key, {})
    if not isinstance(found, dict):
        raise UserError(f"{source}: {key} should be a mapping but is {found!r}")
    return dict(found)


def _print(applied: Applied, output: Path, exported: Path | None) -> None:
    from autoprune.reporting.results import cost_name, short

    print(f"{output}: {applied.origin}")
    for kind in ("flops", "params", "size"):
        cost, dense = applied.costs[kind], applied.dense_costs[kind]
        name, share = cost_name(kind, applied.effective), 100 * cost / dense
        print(f"  {short(cost):>10} {name:10} {share:6.2f} % of the dense network's")
    for name, value in applied.checkpoint.metrics.items():
        if name in ("accuracy", "loss"):
            print(f"  {value:10.4f} {name} on {applied.checkpoint.metrics['images']} validation images")
    if exported is not None:
        print(f"{exported}: the same network, needs neither autoprune nor its own class")
