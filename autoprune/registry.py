"""The tables of what can be named, as text: `name -> "module:attribute"`.

Reading a table imports nothing, so `autoprune list` and every error about a name answer before torch is loaded.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from autoprune.errors import UnknownName

TASKS: Mapping[str, str] = {
    "digits": "autoprune.tasks.datasets.digits:DigitsTask",
    "cifar10": "autoprune.tasks.datasets.cifar10:Cifar10Task",
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
    "fpgm": "autoprune.pruning.pruner:FPGM",
    "slim": "autoprune.pruning.pruner:SLIM",
    "apoz": "autoprune.pruning.pruner:APOZ",
    "mean_activation": "autoprune.pruning.pruner:MEAN_ACTIVATION",
    "taylor": "autoprune.pruning.pruner:TAYLOR",
    "gradient": "autoprune.pruning.pruner:GRADIENT",
    "reconstruction": "autoprune.pruning.pruner:RECONSTRUCTION",
    "random": "autoprune.pruning.pruner:RANDOM",
    "level": "autoprune.pruning.pruner:LEVEL",
    "block_1x1x8": "autoprune.pruning.pruner:BLOCK",
    "two_four": "autoprune.pruning.pruner:N_OF_M",
    "sensitivity": "autoprune.pruning.pruner:SENSITIVITY",
    "threshold": "autoprune.pruning.pruner:FIXED_THRESHOLD",
    "agp": "autoprune.pruning.pruner:GRADUAL",
    "lottery_ticket": "autoprune.pruning.pruner:TICKET",
    "group_lasso": "autoprune.pruning.pruner:GROUP_LASSO",
    "admm": "autoprune.pruning.pruner:ADMM",
}

PATTERNS: Mapping[str, str] = {
    "filter": "autoprune.pruning.patterns:FILTER",
    "element": "autoprune.pruning.patterns:ELEMENT",
    "kernel": "autoprune.pruning.patterns:KERNEL",
    "channel": "autoprune.pruning.patterns:CHANNEL",
    "row": "autoprune.pruning.patterns:ROW",
    "column": "autoprune.pruning.patterns:COLUMN",
    "layer": "autoprune.pruning.patterns:LAYER",
    "block_1x1x8": "autoprune.pruning.patterns:BLOCK_1X1X8",
    "2:4": "autoprune.pruning.patterns:TWO_FOUR",
}

SCHEDULES: Mapping[str, str] = {
    "one_shot": "autoprune.pruning.schedules:ONE_SHOT",
    "agp": "autoprune.pruning.schedules:AGP",
    "iterative": "autoprune.pruning.schedules:ITERATIVE",
    "growing": "autoprune.pruning.schedules:GROWING",
    "lottery_ticket": "autoprune.pruning.schedules:LOTTERY_TICKET",
}

PENALTIES: Mapping[str, str] = {
    "group_lasso": "autoprune.pruning.training.group_lasso:GroupLasso",
    "l1": "autoprune.pruning.training.group_lasso:l1",
    "l1_scale": "autoprune.pruning.training.penalties:ScaleL1",
    "admm": "autoprune.pruning.training.admm:Admm",
}

ALLOCATORS: Mapping[str, str] = {
    "uniform": "autoprune.pruning.allocators:UNIFORM",
    "global": "autoprune.pruning.allocators:GLOBAL",
    "threshold": "autoprune.pruning.allocators:THRESHOLD",
}

CRITERIA: Mapping[str, str] = {
    "magnitude": "autoprune.pruning.criteria.magnitudes:MAGNITUDE",
    "threshold": "autoprune.pruning.criteria.magnitudes:THRESHOLD",
    "std_threshold": "autoprune.pruning.criteria.magnitudes:STD_THRESHOLD",
    "l1": "autoprune.pruning.criteria.norms:L1",
    "l2": "autoprune.pruning.criteria.norms:L2",
    "fpgm": "autoprune.pruning.criteria.distances:FPGM",
    "bn_scale": "autoprune.pruning.criteria.gates:BN_SCALE",
    "taylor_gate": "autoprune.pruning.criteria.gates:TAYLOR_GATE",
    "apoz": "autoprune.pruning.criteria.activations:APOZ",
    "mean_activation": "autoprune.pruning.criteria.activations:MEAN_ACTIVATION",
    "taylor": "autoprune.pruning.criteria.gradients:TAYLOR",
    "gradient": "autoprune.pruning.criteria.gradients:GRADIENT",
    "saliency": "autoprune.pruning.criteria.gradients:SALIENCY",
    "reconstruction": "autoprune.pruning.criteria.reconstruction:RECONSTRUCTION",
    "random": "autoprune.pruning.criteria.controls:RANDOM",
    "bernoulli": "autoprune.pruning.criteria.controls:BERNOULLI",
}

SEARCHERS: Mapping[str, str] = {
    "uniform": "autoprune.searchers.controls:Uniform",
    "random": "autoprune.searchers.controls:Random",
    "ranked": "autoprune.searchers.ranked:Ranked",
    "threshold": "autoprune.searchers.threshold:Threshold",
    "knapsack": "autoprune.searchers.knapsack:Knapsack",
    "evolution": "autoprune.searchers.evolution:Evolution",
    "annealing": "autoprune.searchers.annealing:Annealing",
    "tpe": "autoprune.searchers.optuna_samplers:Tpe",
    "gp": "autoprune.searchers.optuna_samplers:Gp",
    "cmaes": "autoprune.searchers.cmaes:CmaEs",
    "nsga2": "autoprune.searchers.nsga2:Nsga2",
    "auto": "autoprune.searchers.auto:Auto",
    "netadapt": "autoprune.searchers.netadapt:NetAdapt",
    "autocompress": "autoprune.searchers.autocompress:AutoCompress",
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
    "criteria": CRITERIA,
    "patterns": PATTERNS,
    "schedules": SCHEDULES,
    "penalties": PENALTIES,
    "allocators": ALLOCATORS,
    "searchers": SEARCHERS,
    "budgets": BUDGETS,
}

# Of the names of tables, those that are no plain plurals.
_PLURALS: Mapping[str, str] = {"criterion": "criteria", "penalty": "penalties"}


def table(kind: str) -> Mapping[str, str]:
    """The table of a kind, named in the singular: "task", "criterion"."""
    return TABLES[_PLURALS.get(kind, f"{kind}s")]


def singular(table: str) -> str:
    """The kind of a table's entries: "criterion" for "criteria"."""
    return next((kind for kind, plural in _PLURALS.items() if plural == table), table.removesuffix("s"))


def check(kind: str, name: str, hint: str = "") -> str:
    """The name itself, if the table of `kind` (singular: "task") has it.

    Raises:
        UnknownName: it has not; the message holds the nearest name.
    """
    if name not in table(kind):
        raise UnknownName(kind, name, table(kind), hint)
    return name


def resolve(kind: str, name: str) -> Any:
    """What a name of the table of `kind` stands for, imported now."""
    module, _, attribute = table(kind)[check(kind, name)].partition(":")
    return getattr(importlib.import_module(module), attribute)


# Names of patterns that are in no table.
_BLOCK = re.compile(r"block_([1-9]\d*)x([1-9]\d*)x([1-9]\d*)(?:x([1-9]\d*))?")
_N_OF_M = re.compile(r"([1-9]\d*):([1-9]\d*)")

PATTERN_FORMS = "or block_HEIGHTxWIDTHxDEPTH[xFILTERS], or N:M such as 1:4"


def block_shape(text: str) -> tuple[int, int, int, int] | None:
    """Returns height, width, depth (input channels) and filters of `block_HEIGHTxWIDTHxDEPTH[xFILTERS]`, else None."""
    found = _BLOCK.fullmatch(text)
    if found is None:
        return None
    height, width, depth, filters = (int(number or 1) for number in found.groups())
    return height, width, depth, filters


def n_and_m(text: str) -> tuple[int, int] | None:
    """Returns the numbers of `N:M` with N < M; None for other text."""
    found = _N_OF_M.fullmatch(text)
    if found is None or int(found[1]) >= int(found[2]):
        return None
    return int(found[1]), int(found[2])
