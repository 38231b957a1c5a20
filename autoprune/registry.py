"""The tables of what can be named, as text: `name -> "module:attribute"`, and the one resolver of names.

Reading a table imports nothing, so `autoprune list` and every error about a name answer before torch is loaded.
The user's own code goes by `package.module:attribute` wherever a name of a table does.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from typing import Any

from autoprune import plugins
from autoprune.errors import PluginError, UnknownName

TASKS: Mapping[str, str] = {
    "digits": "autoprune.tasks.datasets.digits:DigitsTask",
    "cifar10": "autoprune.tasks.datasets.cifar10:Cifar10Task",
    "image_folder": "autoprune.tasks.adapters.images.image_folder:image_folder",
    "text_classification": "autoprune.tasks.adapters.texts.tasks:text_classification",
    "language_model": "autoprune.tasks.adapters.texts.tasks:language_model",
}

MODELS: Mapping[str, str] = {
    "digits_resnet": "autoprune.tasks.models.digits_resnet:digits_resnet",
    "resnet20": "autoprune.tasks.models.cifar_resnet:resnet20",
    "resnet32": "autoprune.tasks.models.cifar_resnet:resnet32",
    "resnet44": "autoprune.tasks.models.cifar_resnet:resnet44",
    "resnet56": "autoprune.tasks.models.cifar_resnet:resnet56",
    "resnet110": "autoprune.tasks.models.cifar_resnet:resnet110",
}

LIBRARIES: Mapping[str, str] = {
    "timm": "autoprune.tasks.adapters.networks.zoos:timm_model",
    "torchvision": "autoprune.tasks.adapters.networks.zoos:torchvision_model",
    "hf": "autoprune.tasks.adapters.networks.huggingface:hf_model",
}
"""Prefixes of the names of other libraries' networks: `timm:NAME`, `torchvision:NAME`, `hf:FOLDER`."""

PRUNERS: Mapping[str, str] = {
    "l1_filter": "autoprune.pruning.pruner:L1_FILTER",
    "l2_filter": "autoprune.pruning.pruner:L2_FILTER",
    "fpgm": "autoprune.pruning.pruner:FPGM_FILTER",
    "slim": "autoprune.pruning.pruner:SLIM",
    "apoz": "autoprune.pruning.pruner:APOZ_FILTER",
    "mean_activation": "autoprune.pruning.pruner:MEAN_ACTIVATION_FILTER",
    "taylor": "autoprune.pruning.pruner:TAYLOR_FILTER",
    "gradient": "autoprune.pruning.pruner:GRADIENT_FILTER",
    "reconstruction": "autoprune.pruning.pruner:RECONSTRUCTION_FILTER",
    "random": "autoprune.pruning.pruner:RANDOM_FILTER",
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
    "threshold": "autoprune.pruning.allocators:ABOVE_THRESHOLD",
}

CRITERIA: Mapping[str, str] = {
    "magnitude": "autoprune.pruning.criteria.magnitudes:MAGNITUDE",
    "threshold": "autoprune.pruning.criteria.magnitudes:THRESHOLD",
    "std_threshold": "autoprune.pruning.criteria.magnitudes:STD_THRESHOLD",
    "l1": "autoprune.pruning.criteria.magnitudes:L1",
    "l2": "autoprune.pruning.criteria.magnitudes:L2",
    "fpgm": "autoprune.pruning.criteria.distances:FPGM",
    "bn_scale": "autoprune.pruning.criteria.magnitudes:BN_SCALE",
    "taylor_gate": "autoprune.pruning.criteria.gradients:TAYLOR_GATE",
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


# The class of a kind's values; imported only to check what the user's own code is.
_CLASSES: Mapping[str, str] = {
    "pruner": "autoprune.pruning.pruner:Pruner",
    "criterion": "autoprune.pruning.criteria.base:Criterion",
    "pattern": "autoprune.pruning.patterns:Pattern",
    "schedule": "autoprune.pruning.schedules:Schedule",
    "allocator": "autoprune.pruning.allocators:Allocator",
}


def table(kind: str) -> Mapping[str, str]:
    """Returns the table of a kind, named in the singular: "task", "criterion"."""
    return TABLES[_PLURALS.get(kind, f"{kind}s")]


def singular(table: str) -> str:
    """Returns the kind of a table's entries: "criterion" for "criteria"."""
    return next((kind for kind, plural in _PLURALS.items() if plural == table), table.removesuffix("s"))


def library_of(model: str) -> str | None:
    """Returns the prefix of the library whose network a name stands for; None where it has none."""
    prefix, colon, _ = model.partition(":")
    return prefix if colon and prefix in LIBRARIES else None


def is_bundled(kind: str, name: str) -> bool:
    """Returns whether a name is one of a table, or of another library's network: no code of the user's."""
    return name in table(kind) or (kind == "model" and library_of(name) is not None)


def is_own(kind: str, name: str) -> bool:
    """Returns whether a name stands for the user's own code: `package.module:attribute`, and in no table."""
    return not is_bundled(kind, name) and plugins.is_reference(name)


def check(kind: str, name: str) -> str:
    """Returns the name, if it may stand for something of `kind` ("task", "criterion"); nothing is imported.

    Raises:
        UnknownName: it is in no table, has not the form `package.module:attribute`, and is no other form of a pattern's
            name; the message holds the nearest name.
    """
    forms = {"pattern": f"; {PATTERN_FORMS}", "model": "; timm:NAME, torchvision:NAME, hf:FOLDER"}.get(kind, "")
    known = is_bundled(kind, name) or is_own(kind, name)
    if kind == "model" and library_of(name) and not name.partition(":")[2].strip():
        raise UnknownName(kind, name, table(kind), f"{forms}: the name is missing")
    if not known and not (kind == "pattern" and (block_shape(name) or n_and_m(name))):
        raise UnknownName(kind, name, table(kind), f"{forms}; or your own as package.module:attribute")
    return name


def resolve(kind: str, name: str) -> Any:
    """Imports and returns what a name stands for: an entry of the table of `kind`, or the user's own code.

    A criterion, pattern, schedule, allocator or pruner of the user's is called by the name it was given by, so that
    records lead back to it.

    Raises:
        UnknownName: it is in no table and has not the form `package.module:attribute`.
        PluginError: the user's module cannot be imported, has no such attribute, or that is of another kind.
    """
    if not is_own(kind, name):
        check(kind, name)
        library = library_of(name) if kind == "model" else None
        return _imported(LIBRARIES[library] if library else table(kind)[name])
    found = plugins.load(name)
    if kind in _CLASSES:
        expected = _imported(_CLASSES[kind])
        if not isinstance(found, expected):
            raise PluginError(
                f"{name!r} should be a value of {expected.__module__}.{expected.__name__} but is {_shown(found)}"
            )
        return dataclasses.replace(found, name=name)
    if kind == "searcher":
        _check_searcher(found, name)
    if kind == "penalty" and not callable(found):
        raise PluginError(f"{name!r} should be a class or function that makes a penalty but is {_shown(found)}")
    return found  # a task or model is checked when it is built


def _check_searcher(found: Any, name: str) -> None:
    if not isinstance(found, type):
        raise PluginError(f"{name!r} should be a searcher, a class with ask and tell, but is {_shown(found)}")
    searcher = _imported("autoprune.searchers.base.searcher:Searcher")
    wanted = [member for member in (*searcher.__annotations__, *vars(searcher)) if not member.startswith("_")]
    missing = [member for member in wanted if not hasattr(found, member)]
    if missing:
        raise PluginError(
            f"{name!r} should be a searcher, but class {found.__name__} lacks {', '.join(missing)}; "
            "autoprune.searchers.base.searcher:Searcher says what they are"
        )


def _imported(text: str) -> Any:
    module, _, attribute = text.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _shown(found: Any) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
