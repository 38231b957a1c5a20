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
    from autoprune.embedding import NetworkSpace, allocation_from, search_space, suggest_allocation
    from autoprune.evaluation.checkpoints.checkpoint import load
    from autoprune.pruning.schedules import Timing
    from autoprune.pruning.training.gradual import Pruning
    from autoprune.tasks.base import Hook, Task, TrainingPlan
    from autoprune.tasks.simple import SimpleTask

__version__ = "0.1.0"

__all__ = [
    "Allocation",
    "Budget",
    "Hook",
    "NetworkSpace",
    "Pruning",
    "SearchResult",
    "SimpleTask",
    "Task",
    "Timing",
    "TrainingPlan",
    "allocation_from",
    "apply",
    "load",
    "search",
    "search_space",
    "suggest_allocation",
]

_PLACES = {
    "Allocation": "autoprune.core.allocation",
    "Budget": "autoprune.core.budget",
    "Hook": "autoprune.tasks.base",
    "NetworkSpace": "autoprune.embedding",
    "Pruning": "autoprune.pruning.training.gradual",
    "SearchResult": "autoprune.api",
    "SimpleTask": "autoprune.tasks.simple",
    "Task": "autoprune.tasks.base",
    "Timing": "autoprune.pruning.schedules",
    "TrainingPlan": "autoprune.tasks.base",
    "allocation_from": "autoprune.embedding",
    "apply": "autoprune.api",
    "load": "autoprune.evaluation.checkpoints.checkpoint",
    "search": "autoprune.api",
    "search_space": "autoprune.embedding",
    "suggest_allocation": "autoprune.embedding",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
