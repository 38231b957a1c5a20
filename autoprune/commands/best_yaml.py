"""A `best.yaml` as the settings of an experiment: what it says of task, pruner and recipe, as far as it may."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from autoprune import registry
from autoprune.core.settings import criterion_pattern
from autoprune.errors import UserError


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


def defaults(best: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
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


def criteria(best: dict[str, Any], source: str) -> dict[str, Any]:
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
