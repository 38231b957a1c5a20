"""Allocators: from one number, a sparsity or a threshold, and the structures' scores to a width for each group."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.allocation import Allocation, width_from_sparsity
from autoprune.core.space import Group
from autoprune.errors import UserError
from autoprune.pruning.surgery.masks import Importance

Allocate = Callable[[Sequence[Group], Importance, float], Mapping[str, int]]
"""Groups, their scores and the number to group → kept width."""


@dataclass(frozen=True)
class Allocator:
    """How one number becomes widths; a search needs none, it looks for the widths itself.

    Attributes:
        sparsity: whether the number is a sparsity in [0, 1], not a threshold of at least 0.
        description: one line.
    """

    name: str
    allocate: Allocate
    description: str
    sparsity: bool = True

    def check(self, number: float) -> None:
        """Checks that the number is in the range that the allocator takes.

        Raises:
            UserError: it is not.
        """
        if not (math.isfinite(number) and number >= 0 and (number <= 1 or not self.sparsity)):
            meant = "a sparsity from 0 to 1" if self.sparsity else "a threshold of at least 0"
            raise UserError(f"allocator {self.name!r} takes {meant}, not {number}")

    def widths(self, groups: Sequence[Group], importance: Importance, number: float) -> Allocation:
        """Returns the kept width of each group; what its pattern does not allow is rounded to what keeps more.

        Args:
            groups: all that the number is for.
            importance: group name to `[structures]` scores (`[choices, structures]` with N:M); may be empty for
                allocators that do not compare scores.
            number: a sparsity, or a threshold.

        Raises:
            UserError: the number is out of range, or the groups are of a pattern that this cannot be done with.
        """
        self.check(number)
        found = self.allocate(groups, importance, number)
        return Allocation({group.name: _allowed(group, found[group.name]) for group in groups})


def _allowed(group: Group, width: int) -> int:
    # A grain above `least` is a search's step; where the pattern has one (N:M) both are the same number.
    grain = group.grain if 1 < group.grain == group.least else 1
    return min(group.width, max(group.least, -(-width // grain) * grain))


def same_sparsity(groups: Sequence[Group], importance: Importance, sparsity: float) -> dict[str, int]:
    """Removes the same share of every group.

    Args:
        groups: all that the sparsity is for.
        importance: group name to `[structures]` scores; not used, may be empty.
        sparsity: in [0, 1].

    Returns:
        Group name to kept width.
    """
    return {group.name: width_from_sparsity(group.width, sparsity) for group in groups}


def global_rank(groups: Sequence[Group], importance: Importance, sparsity: float) -> dict[str, int]:
    """Removes the lowest scores of all groups together; of equal ones the earlier group's lower index.

    Source: Liu et al. 2017 (network slimming), arXiv:1708.06519, section 3 (one threshold over all scales); for single
    weights Han et al. 2015, arXiv:1506.02626, prune by layer, this is their network-wide counterpart.

    Args:
        groups: all that the sparsity is for.
        importance: group name to `[structures]` scores.
        sparsity: of all structures together, in [0, 1].

    Returns:
        Group name to kept width.

    Raises:
        UserError: a group keeps equally many of every few weights (N:M).
    """
    scores = [_scores_of(group, importance) for group in groups]
    group_of = np.repeat(np.arange(len(groups)), [len(found) for found in scores])
    order = np.argsort(np.concatenate(scores), kind="stable")
    removed = np.bincount(
        group_of[order[: len(order) - width_from_sparsity(len(order), sparsity)]], minlength=len(groups)
    )
    return {group.name: group.width - int(count) for group, count in zip(groups, removed, strict=True)}


def above_threshold(groups: Sequence[Group], importance: Importance, threshold: float) -> dict[str, int]:
    """Keeps what scores above the threshold.

    Args:
        groups: all that the threshold is for.
        importance: group name to `[structures]` scores.
        threshold: of at least 0.

    Returns:
        Group name to kept width.

    Raises:
        UserError: a group keeps equally many of every few weights (N:M).
    """
    return {group.name: int((_scores_of(group, importance) > threshold).sum()) for group in groups}


def _scores_of(group: Group, importance: Importance) -> np.ndarray:
    scores = importance[group.name]
    if scores.ndim != 1:
        raise UserError(
            f"group {group.name!r} keeps the same number of every few weights (N:M); use allocator 'uniform'"
        )
    return scores


UNIFORM = Allocator("uniform", same_sparsity, "every group loses the same share")
GLOBAL = Allocator("global", global_rank, "the lowest scores of all groups together go")
ABOVE_THRESHOLD = Allocator("threshold", above_threshold, "what scores above the number stays", sparsity=False)
