"""The parts of users' data: as folders and files name them, or drawn where they are not divided."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from autoprune.errors import DataError
from autoprune.tasks.base import Split

log = logging.getLogger(__name__)

NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""What the parts of data are called on disk."""
SHARE = 0.15
"""Of the samples, for each part that is drawn."""

Item = TypeVar("Item")


def is_part(name: str) -> bool:
    """Returns whether a part of data is called so."""
    return any(name.lower() in names for names in NAMES.values())


def find_parts(root: Path, candidates: Mapping[str, Path]) -> dict[Split, Path]:
    """Returns the parts among a folder's files or folders; empty where none is called as a part is.

    Args:
        root: the folder.
        candidates: name without suffix to a file or folder in it.

    Raises:
        DataError: two are the same part, or there is none to train on.
    """
    found: dict[Split, Path] = {}
    for split, names in NAMES.items():
        named = [path for name, path in candidates.items() if name.lower() in names]
        if len(named) > 1:
            raise DataError(f"{root} has {named[0].name} and {named[1].name}; expected one of them as {split} data")
        if named:
            found[split] = named[0]
    if found and "train" not in found:
        raise DataError(f"{root} has {', '.join(path.name for path in found.values())} but no train; add it")
    return found


def complete_parts(
    given: Mapping[Split, Sequence[Item]], classes: Sequence[int], source: Path
) -> dict[Split, list[Item]]:
    """Returns parts that train and validate; what is missing is drawn from `train`, always the same, and said.

    Args:
        given: samples of the parts that there are. Where there is only `train`, a test part is drawn too.
        classes: those of the samples of `train`, each of which every part gets its share of.
        source: where they come from.

    Raises:
        DataError: too few samples.
    """
    parts: dict[Split, list[Item]] = {split: list(items) for split, items in given.items()}
    missing: list[Split] = [] if "validation" in parts else ["validation"]
    if missing and len(parts) == 1:
        missing.append("test")
    if not missing:
        return parts
    for split, indices in draw_parts(classes, missing).items():
        parts[split] = [given["train"][index] for index in indices]
        if not parts[split]:
            raise DataError(
                f"{source} has {len(classes)} samples to train and validate, too few to divide: {split} would be empty"
            )
    counts = ", ".join(f"{len(parts[split]):,} {split}" for split in ("train", *missing))
    log.warning("%s has no %s part; drawn with seed 0: %s", source, " and no ".join(missing), counts)
    return parts


def draw_parts(classes: Sequence[int], drawn: Sequence[Split], share: float = SHARE) -> dict[Split, list[int]]:
    """Returns indices of samples for each part, in order; `train` gets what is left.

    Args:
        classes: of the samples; each part gets its share of every class.
        drawn: the parts beside `train`.
        share: of each of them.
    """
    generator, labels = np.random.default_rng(0), np.asarray(classes)
    parts: dict[Split, list[int]] = {split: [] for split in ("train", *drawn)}
    for label in np.unique(labels):
        members = [int(index) for index in generator.permutation(np.flatnonzero(labels == label))]
        count = round(share * len(members))
        for place, split in enumerate(drawn):
            parts[split] += members[place * count : (place + 1) * count]
        parts["train"] += members[len(drawn) * count :]
    return {split: sorted(indices) for split, indices in parts.items()}


def joined(faults: Sequence[str], shown: int = 10) -> str:
    """Returns faults, a line each; of many the first ones."""
    more = [f"and {len(faults) - shown:,} more"] if len(faults) > shown else []
    return "\n".join([*faults[:shown], *more])
