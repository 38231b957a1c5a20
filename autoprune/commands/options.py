"""From the options that commands share to an experiment."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.config import Experiment, load_experiment

_KEYS = {
    "task": "task.name",
    "model": "task.model",
    "checkpoint": "task.checkpoint",
    "data": "task.data",
    "device": "run.device",
    "budget": "budget",
    "searcher": "search.searcher",
    "pruner": "pruner",
    "pattern": "scoring.pattern",
    "space": "space",
    "trials": "search.trials",
    "seed": "search.seed",
    "tracking_uri": "track.uri",
}
_NUMBERS = ("trials", "seed")


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Dotted keys of an experiment to the values of the options that were given."""
    given = {key: getattr(arguments, name) for name, key in _KEYS.items() if getattr(arguments, name, None) is not None}
    for name in _NUMBERS:
        text = given.get(_KEYS[name])
        if text is not None and text.lstrip("-").isdigit():  # any other text is reported with all other faults
            given[_KEYS[name]] = int(text)
    return given


def experiment_of(
    arguments: argparse.Namespace, file: Path | None = None, defaults: Mapping[str, Any] | None = None
) -> Experiment:
    """The experiment that a file and the options describe; options win over `defaults`, dotted keys to values.

    Raises:
        ConfigError: something is wrong; every fault is listed.
    """
    return load_experiment(file, {**(defaults or {}), **overrides(arguments)}, arguments.set)
