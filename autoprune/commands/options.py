"""From the options that commands share to an experiment."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from autoprune.config import Experiment, load_experiment
from autoprune.errors import UserError

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
    "evaluations": "search.evaluations",
    "seed": "search.seed",
    "tracking_uri": "track.uri",
    "workers": "run.workers",
    "cpus_per_trial": "run.cpus_per_trial",
    "gpus_per_trial": "run.gpus_per_trial",
    "retries": "run.retries",
    "trial_timeout": "run.trial_timeout",
    "ray_address": "run.ray_address",
}
_NUMBERS = ("trials", "evaluations", "seed", "workers", "retries")
_AMOUNTS = ("cpus_per_trial", "gpus_per_trial", "trial_timeout")
# Where a run goes on may differ from where it began.
_NEW_ON_RESUME = {"track.uri", *(_KEYS[name] for name in (*_AMOUNTS, "workers", "retries", "ray_address"))}


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns dotted keys of an experiment to the values of the options that were given."""
    given = {key: getattr(arguments, name) for name, key in _KEYS.items() if getattr(arguments, name, None) is not None}
    for name in _NUMBERS:
        text = given.get(_KEYS[name])
        if text is not None and text.lstrip("-").isdigit():  # any other text is reported with all other faults
            given[_KEYS[name]] = int(text)
    for name in _AMOUNTS:
        with suppress(KeyError, ValueError):
            given[_KEYS[name]] = float(given[_KEYS[name]])
    return given


def experiment_of(
    arguments: argparse.Namespace, file: Path | None = None, defaults: Mapping[str, Any] | None = None
) -> Experiment:
    """Returns the experiment that a file and the options describe; options win over `defaults`, dotted keys to values.

    Raises:
        ConfigError: something is wrong; every fault is listed.
    """
    return load_experiment(file, {**(defaults or {}), **overrides(arguments)}, arguments.set)


def refuse_settings(arguments: argparse.Namespace, *others: object) -> None:
    """Refuses settings beside `--resume`.

    Args:
        others: further arguments that would be settings; None where not given.

    Raises:
        UserError: one is; all come from the run's folder but where trials are evaluated and tracked.
    """
    given = set(overrides(arguments)) - _NEW_ON_RESUME
    given |= {f"--set {text}" for text in arguments.set}
    given |= {str(value) for value in others if value is not None}
    if given:
        raise UserError(f"--resume takes all settings from the run's folder; leave out {', '.join(sorted(given))}")
