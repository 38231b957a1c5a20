"""The tables of what can be named, as text: `name -> "module:attribute"`.

Reading a table imports nothing, so `autoprune list` and every error about a name answer before torch is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from autoprune.errors import UnknownName

TASKS: Mapping[str, str] = {
    "digits": "autoprune.tasks.digits:DigitsTask",
    "cifar10": "autoprune.tasks.cifar10:Cifar10Task",
}

MODELS: Mapping[str, str] = {
    "digits_resnet": "autoprune.tasks.models.digits_resnet:digits_resnet",
    "resnet20": "autoprune.tasks.models.cifar_resnet:resnet20",
    "resnet32": "autoprune.tasks.models.cifar_resnet:resnet32",
    "resnet44": "autoprune.tasks.models.cifar_resnet:resnet44",
    "resnet56": "autoprune.tasks.models.cifar_resnet:resnet56",
    "resnet110": "autoprune.tasks.models.cifar_resnet:resnet110",
}

PRUNERS: Mapping[str, str] = {
    "l1_filter": "autoprune.pruning.pruner:L1_FILTER",
    "l2_filter": "autoprune.pruning.pruner:L2_FILTER",
}

SEARCHERS: Mapping[str, str] = {
    "uniform": "autoprune.searchers.uniform:Uniform",
    "random": "autoprune.searchers.random:Random",
    "ranked": "autoprune.searchers.ranked:Ranked",
    "threshold": "autoprune.searchers.threshold:Threshold",
    "knapsack": "autoprune.searchers.knapsack:Knapsack",
    "evolution": "autoprune.searchers.evolution:Evolution",
    "annealing": "autoprune.searchers.annealing:Annealing",
    "tpe": "autoprune.searchers.optuna_samplers:Tpe",
    "cmaes": "autoprune.searchers.optuna_samplers:CmaEs",
    "auto": "autoprune.searchers.auto:Auto",
}

BUDGETS: Mapping[str, str] = {
    "flops": "floating-point operations of one forward pass, two per multiply-add (units: k, M, G, T)",
    "params": "parameters (units: k, M, G)",
    "size": "bytes of parameters and buffers (units: B, kB, MB, GB)",
}

TABLES: Mapping[str, Mapping[str, str]] = {
    "tasks": TASKS,
    "models": MODELS,
    "pruners": PRUNERS,
    "searchers": SEARCHERS,
    "budgets": BUDGETS,
}


def check(kind: str, name: str, hint: str = "") -> str:
    """The name itself, if the table of `kind` (singular: "task") has it.

    Raises:
        UnknownName: it has not; the message holds the nearest name.
    """
    table = TABLES[f"{kind}s"]
    if name not in table:
        raise UnknownName(kind, name, table, hint)
    return name


def resolve(kind: str, name: str) -> Any:
    """What a name of the table of `kind` stands for, imported now."""
    module, _, attribute = TABLES[f"{kind}s"][check(kind, name)].partition(":")
    return getattr(importlib.import_module(module), attribute)
