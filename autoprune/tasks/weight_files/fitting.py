"""Finds how the names in a file are those of a network: which state dict, which prefixes, which other spelling."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autoprune.tasks.weight_files.state_dicts import StateDict, joined, rank

# What wrappers put between the names of modules, wherever they stand.
_WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
# Weight norm as it is since torch 2.0, and before.
_WEIGHT_NORM = re.compile(r"parametrizations\.(\w+)\.original([01])$")
# Counters: of averaged networks, of batch norms (absent before torch 0.4.1), of the FLOP counter thop.
_COUNTERS = frozenset(("n_averaged", "num_batches_tracked", "total_ops", "total_params"))
_MASKED, _MASK = "_orig", "_mask"
_MOST_PREFIXES = 20


@dataclass(frozen=True)
class Target:
    """What a network takes.

    Attributes:
        entries: name to its own tensor `[…]`, or to what a module keeps beside its tensors.
        temporary: names of buffers that it computes by itself and does not save.
        tied: name to the names of the same tensor, where it has several.
    """

    entries: Mapping[str, Any]
    temporary: frozenset[str] = frozenset()
    tied: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module) -> Target:
        """Returns what a network takes."""
        entries = network.state_dict()
        buffers = (name for name, _ in network.named_buffers(remove_duplicate=False))
        same: dict[Any, list[str]] = {}
        for name, value in entries.items():
            if isinstance(value, Tensor) and not is_lazy(value) and not value.is_meta and value.numel():
                same.setdefault((value.data_ptr(), value.shape, value.stride()), []).append(name)
        tied = {name: names for names in same.values() if len(names) > 1 for name in names}
        return cls(entries, frozenset(buffers) - entries.keys(), tied)


@dataclass(frozen=True)
class Fit:
    """A state dict of a file, read as that of a network.

    Attributes:
        source: the state dict.
        removed: what is taken from the beginning of its names.
        added: what is put there instead.
        names: the network's name to the file's, of entries in both.
        missing: the network's names that have no entry.
        unexpected: the file's names that the network lacks.
        misshapen: the network's names whose entry has another shape.
        left_out: the file's names that do not begin with `removed`, or are numbers beside the weights.
    """

    source: StateDict
    removed: str
    added: str
    names: Mapping[str, str]
    missing: Sequence[str]
    unexpected: Sequence[str]
    misshapen: Sequence[str]
    left_out: Sequence[str]

    @property
    def whole(self) -> bool:
        """Whether it gives the network all of its entries, in its shapes, and no others."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that lead to the weights, and what their names begin with."""
        return (*self.source.keys, *self.removed.split(".")[:-1])

    def entries(self) -> dict[str, Any]:
        """Returns the file's entries under the network's names."""
        return {name: self.source.entries[theirs] for name, theirs in self.names.items()}

    def same_tensors(self, other: Fit) -> bool:
        """Returns whether another way gives the network the very same tensors."""
        mine, theirs = self.entries(), other.entries()
        return all(mine[name] is theirs.get(name) or _share_memory(mine[name], theirs.get(name)) for name in mine)


def best_fits(target: Target, found: Sequence[StateDict]) -> list[Fit]:
    """Returns the ways to read a file that fit the network whole, the preferred first, or else the nearest one.

    Args:
        target: what the network takes.
        found: the state dicts in the file, not empty.
    """
    fits = [fit for each in found for fit in _fits(target, each)]
    if not any(fit.whole for fit in fits):
        fits += [fit for each in joined(found) for fit in _fits(target, each)]
    whole = sorted((fit for fit in fits if fit.whole), key=lambda fit: rank(fit.keys))
    return whole or [max(fits, key=_nearness)]


def fit_by_name(target: Target, source: StateDict) -> Fit:
    """Returns how a state dict fits a network by the names that it has."""
    return _fit(
        target, source, {name: name for name in target.entries}, {name: name for name in source.entries}, "", ""
    )


def without_wrappers(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state dict without what wrappers put before all of its names, and without their counters."""
    kept = {name: value for name, value in entries.items() if name not in _COUNTERS}
    bare = {name: name.partition(".")[2] for name in kept if name.partition(".")[0] in _WRAPPERS}
    if len(bare) < len(kept) or not kept:
        return dict(entries)
    return without_wrappers({bare[name]: value for name, value in kept.items()})  # one may be around another


def _share_memory(one: Any, other: Any) -> bool:
    tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
    return tensors and one.numel() > 0 and one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _nearness(fit: Fit) -> tuple[float, ...]:
    right = len(fit.names) - len(fit.misshapen)
    return right, len(fit.names), -len(fit.unexpected), -len(fit.removed + fit.added)


def _fits(target: Target, source: StateDict) -> list[Fit]:
    source = _with_masks_applied(target, source)
    ours, theirs = _spelled(target.entries), _spelled(source.entries)
    if ours is None or theirs is None:  # two names become one
        ours, theirs = {name: name for name in target.entries}, {name: name for name in source.entries}
    return [_fit(target, source, ours, theirs, *each) for each in _prefixes(ours.keys(), theirs.keys())]


def _spelled(names: Iterable[str]) -> dict[str, str] | None:
    """Returns a common spelling of names to the names; None where two share one."""
    names = list(names)
    found = {_spelling(name): name for name in names}
    return found if len(found) == len(names) else None


def _spelling(name: str) -> str:
    *modules, last = _WEIGHT_NORM.sub(lambda match: f"{match[1]}_{'gv'[int(match[2])]}", name).split(".")
    return ".".join([*(each for each in modules if each not in _WRAPPERS), last])


def _with_masks_applied(target: Target, source: StateDict) -> StateDict:
    """Returns a state dict in which weights that `torch.nn.utils.prune` masks are whole again, their zeros in place."""
    masks = [name for name in source.tensors if name.endswith(_MASK)]
    masked = {
        mask: mask.removesuffix(_MASK) for mask in masks if f"{mask.removesuffix(_MASK)}{_MASKED}" in source.tensors
    }
    if not masked or any(name.endswith(_MASK) for name in target.entries):
        return source
    entries = dict(source.entries)
    for mask, name in masked.items():
        weight, kept = entries.pop(f"{name}{_MASKED}"), entries.pop(mask)
        entries[name] = weight * kept if weight.shape == kept.shape else weight
    return StateDict(source.keys, entries, source.versions, masked=len(masked))


def _prefixes(ours: Iterable[str], theirs: Iterable[str]) -> list[tuple[str, str]]:
    """Returns pairs of what may be taken from the file's names and put before them, those first that explain most."""
    ours, theirs = set(ours), set(theirs)
    removed = Counter(prefix for name in theirs for prefix, rest in _splits(name) if rest in ours)
    added = Counter(prefix for name in ours for prefix, rest in _splits(name) if rest in theirs)
    both = [(one, other) for one in _shared(theirs) for other in _shared(ours)]
    return [
        ("", ""),
        *((prefix, "") for prefix, _ in removed.most_common(_MOST_PREFIXES)),
        *(("", prefix) for prefix, _ in added.most_common(_MOST_PREFIXES)),
        *both,
    ]


def _splits(name: str) -> list[tuple[str, str]]:
    dots = [i + 1 for i, sign in enumerate(name) if sign == "."]
    return [(name[:i], name[i:]) for i in dots]


def _shared(names: Iterable[str]) -> list[str]:
    """Returns the prefixes, whole modules, that all names have."""
    return [prefix for prefix, _ in _splits(os.path.commonprefix(list(names)))]  # noqa: RUF071 (the signs are what counts)


def _fit(
    target: Target, source: StateDict, ours: Mapping[str, str], theirs: Mapping[str, str], removed: str, added: str
) -> Fit:
    """Compares a file's names with the network's under one choice of prefixes.

    Args:
        ours: common spelling to the network's name.
        theirs: common spelling to the file's name.
    """
    under = {f"{added}{name[len(removed) :]}": theirs[name] for name in theirs if name.startswith(removed)}
    names = {own: under[name] for name, own in ours.items() if name in under}
    beside = [own for name, own in under.items() if name not in ours and _is_number(own, source.entries[own])]
    outside = [own for name, own in theirs.items() if not name.startswith(removed)]
    return Fit(
        source,
        removed,
        added,
        names,
        missing=[own for own in ours.values() if own not in names and not _dispensable(own, names, target)],
        unexpected=[
            own for name, own in under.items() if name not in ours and own not in beside and not _ignored(name, target)
        ],
        misshapen=[own for own, name in names.items() if not _same_shape(target.entries[own], source.entries[name])],
        left_out=[own for own in (*outside, *beside) if not _ignored(own, target)],
    )


def _dispensable(name: str, given: Mapping[str, str], target: Target) -> bool:
    return name.endswith("num_batches_tracked") or any(twin in given for twin in target.tied.get(name, ()))


def _ignored(name: str, target: Target) -> bool:
    return name.rpartition(".")[2] in _COUNTERS or name in target.temporary


def _is_number(name: str, value: Any) -> bool:
    """Returns whether an entry is one number beside the weights, such as an epoch in a tensor."""
    return "." not in name and isinstance(value, Tensor) and value.dim() == 0


def _same_shape(own: Any, given: Any) -> bool:
    if not isinstance(own, Tensor) or is_lazy(own):
        return True
    return isinstance(given, Tensor) and own.shape == given.shape
