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
    from autoprune.core.recipe import TrainingPlan
    from autoprune.embedding import NetworkSpace, allocation_from, search_space, suggest_allocation
    from autoprune.errors import (
        AllTrialsFailed,
        AutopruneError,
        BudgetError,
        BudgetInfeasible,
        CheckpointError,
        ConfigError,
        DataError,
        Diverged,
        Interrupted,
        LedgerWriteError,
        PluginError,
        RunFolderError,
        TaskError,
        UnknownName,
        UserError,
    )
    from autoprune.evaluation.checkpoints.checkpoint import load
    from autoprune.pruning.schedules import Timing
    from autoprune.pruning.training.gradual import Pruning
    from autoprune.tasks.base import Hook, Task
    from autoprune.tasks.simple import SimpleTask

__version__ = "0.1.0"

__all__ = [
    "AllTrialsFailed",
    "Allocation",
    "AutopruneError",
    "Budget",
    "BudgetError",
    "BudgetInfeasible",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Diverged",
    "Hook",
    "Interrupted",
    "LedgerWriteError",
    "NetworkSpace",
    "PluginError",
    "Pruning",
    "RunFolderError",
    "SearchResult",
    "SimpleTask",
    "Task",
    "TaskError",
    "Timing",
    "TrainingPlan",
    "UnknownName",
    "UserError",
    "allocation_from",
    "apply",
    "load",
    "search",
    "search_space",
    "suggest_allocation",
]

_MODULES = {
    "AllTrialsFailed": "autoprune.errors",
    "Allocation": "autoprune.core.allocation",
    "AutopruneError": "autoprune.errors",
    "Budget": "autoprune.core.budget",
    "BudgetError": "autoprune.errors",
    "BudgetInfeasible": "autoprune.errors",
    "CheckpointError": "autoprune.errors",
    "ConfigError": "autoprune.errors",
    "DataError": "autoprune.errors",
    "Diverged": "autoprune.errors",
    "Hook": "autoprune.tasks.base",
    "Interrupted": "autoprune.errors",
    "LedgerWriteError": "autoprune.errors",
    "PluginError": "autoprune.errors",
    "NetworkSpace": "autoprune.embedding",
    "Pruning": "autoprune.pruning.training.gradual",
    "RunFolderError": "autoprune.errors",
    "SearchResult": "autoprune.api",
    "SimpleTask": "autoprune.tasks.simple",
    "Task": "autoprune.tasks.base",
    "TaskError": "autoprune.errors",
    "Timing": "autoprune.pruning.schedules",
    "TrainingPlan": "autoprune.core.recipe",
    "UnknownName": "autoprune.errors",
    "UserError": "autoprune.errors",
    "allocation_from": "autoprune.embedding",
    "apply": "autoprune.api",
    "load": "autoprune.evaluation.checkpoints.checkpoint",
    "search": "autoprune.api",
    "search_space": "autoprune.embedding",
    "suggest_allocation": "autoprune.embedding",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
