"""State dicts in what a file holds: where they are, which one is meant, and the plain entries beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX as EXTRA_STATE

from autoprune.tasks.weight_files.records import Record

PREFERRED = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights", "params", "student")
"""Of entries that fit equally well the first of these is taken; averages come last."""
_AVERAGES = frozenset("ema averaged average avg swa shadow teacher target momentum".split())
_OF_TRAINING = re.compile(r"optimizer|scheduler|(?:^|_)(?:optims?|opts?|sched|scaler|rng)(?:_|$)", re.IGNORECASE)
_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_DEPTH = 4


@dataclass(frozen=True)
class StateDict:
    """The tensors in one dictionary of a file.

    Attributes:
        keys: those that lead to it, in the file.
        entries: name to a tensor `[…]`, or to what a module keeps beside its tensors (`get_extra_state`).
        versions: of the modules, which `state_dict()` keeps apart; module to its entries.
        masked: how many weights were multiplied with masks that lay beside them.
    """

    keys: tuple[str, ...]
    entries: Mapping[str, Any]
    versions: Mapping[str, Any] = field(default_factory=dict)
    masked: int = 0

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those entries that are tensors."""
        return {name: value for name, value in self.entries.items() if isinstance(value, Tensor)}


def find_state_dicts(content: Any, keys: tuple[str, ...] = ()) -> Iterator[StateDict]:
    """Returns the dictionaries with tensors in a file's content and in lists in it, the outer ones first.

    What belongs to optimizers, schedules and random generators is passed over, by the names that it is under.

    Args:
        content: as it was read.
        keys: the keys that led to it, in lists the places.
    """
    if len(keys) > _DEPTH:
        return
    if isinstance(content, (list, tuple)):
        for place, value in enumerate(content):
            yield from find_state_dicts(value, (*keys, str(place)))
    if not isinstance(content, Mapping):
        return
    entries = {name: _entry(name, value) for name, value in content.items() if isinstance(name, str)}
    entries = {name: value for name, value in entries.items() if value is not None}
    if any(isinstance(value, Tensor) for value in entries.values()):
        yield StateDict(keys, entries, _versions(content))
    for name, value in content.items():
        if isinstance(name, str) and name not in entries and not _OF_TRAINING.search(name):
            yield from find_state_dicts(value, (*keys, name))


def _entry(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value)
    if isinstance(value, Tensor) and value.layout in _SPARSE:
        return value.to_dense()
    return value if isinstance(value, Tensor) or name.endswith(EXTRA_STATE) else None


def _versions(content: Mapping[Any, Any]) -> dict[str, Any]:
    found = getattr(content, "_metadata", None)
    if not isinstance(found, Mapping):
        return {}
    return {name: value for name, value in found.items() if isinstance(name, str) and maps_to(value, int)}


def joined(found: Sequence[StateDict]) -> list[StateDict]:
    """Returns, for each dictionary of several state dicts, what they are together: those of a network's parts."""
    parts: dict[tuple[str, ...], dict[str, Any]] = {}
    for each in found:
        for depth in range(len(each.keys) + 1):
            prefix = "".join(f"{key}." for key in each.keys[depth:])
            whole = parts.setdefault(each.keys[:depth], {})
            whole |= {f"{prefix}{name}": value for name, value in each.entries.items()}
    return [StateDict(keys, entries) for keys, entries in parts.items()]


def rank(keys: Sequence[str]) -> tuple[Any, ...]:
    """Returns the place of a state dict in the order of preference, smaller is preferred; equal ones are alike.

    Args:
        keys: that lead to it, and what its names begin with.
    """
    ranks = [_rank(key) for key in keys]
    return max(ranks, default=-1), ranks


def _rank(key: str) -> int:
    averaged = not _AVERAGES.isdisjoint(re.split(r"[\W_]+", key.lower()))
    return (PREFERRED.index(key) if key in PREFERRED else len(PREFERRED)) + 100 * averaged


def preferred(found: Sequence[StateDict]) -> list[StateDict]:
    """Returns the state dict that is meant, as far as names and sizes tell; several where they tell nothing.

    Args:
        found: what there is, not empty.
    """

    def order(each: StateDict) -> tuple[Any, ...]:
        known = bool(each.keys) and all(_rank(key) < len(PREFERRED) for key in each.keys)
        return (0, rank(each.keys)) if known else (1, -len(each.entries), max(map(_rank, each.keys), default=-1))

    first = min(map(order, found))
    return [each for each in found if order(each) == first]


def maps_to(content: object, kind: type | tuple[type, ...]) -> bool:
    """Returns whether a part of a file is a dictionary of names to values of a kind."""
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, kind) for name, value in content.items()
    )


class _Left:
    """Stands for what is left out."""


_LEFT = _Left()


def plain_entries(content: Any) -> dict[str, Any]:
    """Returns what of a file's content is numbers, texts and containers of them, without what optimizers keep."""
    found = _plain(content, {}) if isinstance(content, Mapping) else {}
    return found if isinstance(found, dict) else {}


def _plain(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, (type(None), bool, int, float, str)):
        return value
    if id(value) not in done:
        done[id(value)] = _LEFT  # a cycle ends here
        if isinstance(value, Mapping):
            named = [
                (key, each) for key, each in value.items() if isinstance(key, str) and not _OF_TRAINING.search(key)
            ]
            kept = {key: plain for key, each in named if (plain := _plain(each, done)) is not _LEFT}
            done[id(value)] = kept or _LEFT
        elif isinstance(value, (list, tuple)):
            items = [_plain(each, done) for each in value]
            done[id(value)] = _LEFT if _LEFT in items else items if isinstance(value, list) else tuple(items)
    return done[id(value)]


def first_record(content: Any) -> Record | None:
    """Returns the first object of an unknown class at the top of a file's content."""
    values = [content, *(content.values() if isinstance(content, Mapping) else ())]
    return next((each for each in values if isinstance(each, Record)), None)
