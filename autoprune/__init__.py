"""Finds how much to remove from each layer of a trained PyTorch network, and removes it.

Public names other than errors are imported on first use: `import autoprune` alone does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from autoprune.api import SearchResult, apply, search
    from autoprune.core.allocation import Allocation
    from autoprune.core.budget import Budget
    from autoprune.core.recipe import TrainingPlan
    from autoprune.embedding import NetworkSpace, allocation_from, save, search_space, suggest_allocation
    from autoprune.evaluation.checkpoints.checkpoint import load
    from autoprune.graph.inputs import ModelInputs
    from autoprune.pruning.schedules import Timing
    from autoprune.pruning.training.gradual import Pruning
    from autoprune.tasks.base import Hook, Task
    from autoprune.tasks.metrics import Metric
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
    "Metric",
    "ModelInputs",
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
    "save",
    "search",
    "search_space",
    "suggest_allocation",
]

_MODULES = {
    "autoprune.api": ("SearchResult", "apply", "search"),
    "autoprune.core.allocation": ("Allocation",),
    "autoprune.core.budget": ("Budget",),
    "autoprune.core.recipe": ("TrainingPlan",),
    "autoprune.embedding": ("NetworkSpace", "allocation_from", "save", "search_space", "suggest_allocation"),
    "autoprune.evaluation.checkpoints.checkpoint": ("load",),
    "autoprune.graph.inputs": ("ModelInputs",),
    "autoprune.pruning.schedules": ("Timing",),
    "autoprune.pruning.training.gradual": ("Pruning",),
    "autoprune.tasks.base": ("Hook", "Task"),
    "autoprune.tasks.metrics": ("Metric",),
    "autoprune.tasks.simple": ("SimpleTask",),
}
"""Where the names are that are imported on first use."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'autoprune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
