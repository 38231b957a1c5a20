"""Finds how much to remove from each layer of a trained PyTorch network, and removes it.

The public names are imported on first use: `import autoprune` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.api import SearchResult, apply, search
    from autoprune.core.allocation import Allocation
    from autoprune.core.budget import Budget
    from autoprune.evaluation.checkpoint import load
    from autoprune.pruning.gradual import Pruning
    from autoprune.pruning.schedules import Timing
    from autoprune.tasks.base import Hook, Task, TrainingPlan
    from autoprune.tasks.user import SimpleTask

__all__ = [
    "Allocation",
    "Budget",
    "Hook",
    "Pruning",
    "SearchResult",
    "SimpleTask",
    "Task",
    "Timing",
    "TrainingPlan",
    "apply",
    "load",
    "search",
]

_PLACES = {
    "Allocation": "autoprune.core.allocation",
    "Budget": "autoprune.core.budget",
    "Hook": "autoprune.tasks.base",
    "Pruning": "autoprune.pruning.gradual",
    "SearchResult": "autoprune.api",
    "SimpleTask": "autoprune.tasks.user",
    "Task": "autoprune.tasks.base",
    "Timing": "autoprune.pruning.schedules",
    "TrainingPlan": "autoprune.tasks.base",
    "apply": "autoprune.api",
    "load": "autoprune.evaluation.checkpoint",
    "search": "autoprune.api",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
