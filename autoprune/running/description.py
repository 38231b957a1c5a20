"""What a run's ledger says of how it was made: enough to report it and to mirror it without network or data."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
import yaml

from autoprune.config import dump_experiment
from autoprune.config.credentials import mask
from autoprune.running.setup import Setup

LIBRARIES = ("autoprune", "torch", "numpy", "optuna", "ray", "mlflow")


def recorded(setup: Setup, command: Sequence[str] = ()) -> dict[str, Any]:
    """What `started` and `resumed` records tell beside digests and limits; credentials are taken out.

    Args:
        command: the arguments that were typed, the program's name left out; empty for a search begun in Python.
    """
    return {
        "settings": yaml.safe_load(dump_experiment(setup.experiment)),
        "params": parameters(setup),
        "groups": {group.name: group.width for group in setup.space.groups},
        "command": ["autoprune", *map(mask, command)] if command else [],
        "environment": environment(setup),
    }


def parameters(setup: Setup) -> dict[str, Any]:
    """What was chosen, by the names that a mirror shows."""
    experiment, identity = setup.experiment, setup.identity
    return {
        "searcher": experiment.search.searcher,
        "pruner": experiment.pruner,
        "costs": "effective" if setup.subject.costs.effective else "actual",
        **{f"scoring.{key}": value for key, value in setup.subject.scoring.items() if key != "pruner"},
        "trials": experiment.most_trials(),
        "evaluations": experiment.search.evaluations,
        "seed": experiment.search.seed,
        "objective": experiment.evaluation.objective,
        "images": experiment.evaluation.images,
        "task": identity["task"],
        "model": identity["model"],
        "space": setup.space.source,
        **({"searched": " ".join(setup.space.settings)} if setup.space.settings else {}),
    }


def environment(setup: Setup) -> Mapping[str, str]:
    """Versions and machine, as far as results may depend on them."""
    device = setup.subject.inputs.device
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.machine()})",
        "threads": str(torch.get_num_threads()),
    }
