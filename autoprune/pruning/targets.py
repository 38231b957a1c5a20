"""What a pruning aims at: a number for all groups, numbers by layer, or the widths that a search found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from autoprune.core.allocation import Allocation, width_from_sparsity
from autoprune.core.space import Group
from autoprune.errors import UserError, did_you_mean
from autoprune.pruning.allocators import Allocator
from autoprune.pruning.masks import Importance
from autoprune.pruning.schedules import Curve


class Target(Protocol):
    """Widths on the way to an aim."""

    def widths(self, groups: Sequence[Group], importance: Importance, curve: Curve, progress: float) -> Allocation:
        """The kept width of each group at a progress in [0, 1]."""


@dataclass(frozen=True)
class ByNumber:
    """One number for all groups, which the allocator turns into widths."""

    allocator: Allocator
    first: float
    last: float

    def widths(self, groups: Sequence[Group], importance: Importance, curve: Curve, progress: float) -> Allocation:
        return self.allocator.widths(groups, importance, curve(progress, self.first, self.last))


@dataclass(frozen=True)
class ByGroup:
    """A number for each group."""

    allocator: Allocator
    first: float
    last: Mapping[str, float]

    def widths(self, groups: Sequence[Group], importance: Importance, curve: Curve, progress: float) -> Allocation:
        found: dict[str, int] = {}
        for group in groups:
            number = curve(progress, min(self.first, self.last[group.name]), self.last[group.name])
            found.update(self.allocator.widths([group], importance, number))
        return Allocation(found)


@dataclass(frozen=True)
class ToWidths:
    """Given widths; on the way to them every group's sparsity follows the curve."""

    last: Mapping[str, int]

    def widths(self, groups: Sequence[Group], importance: Importance, curve: Curve, progress: float) -> Allocation:
        def now(group: Group) -> int:
            keep = self.last[group.name]
            return max(keep, width_from_sparsity(group.width, curve(progress, 0.0, 1 - keep / group.width)))

        return Allocation({group.name: now(group) if progress < 1 else self.last[group.name] for group in groups})


def matching(groups: Sequence[Group], patterns: Sequence[str]) -> tuple[Group, ...]:
    """The groups of which the name, or a layer's name, matches one of some shell patterns.

    Raises:
        UserError: a pattern matches nothing.
    """
    for pattern in patterns:
        _refuse_unmatched(groups, pattern)
    return tuple(group for group in groups if any(_matches(group, pattern) for pattern in patterns))


def numbers_by_group(groups: Sequence[Group], numbers: Mapping[str, float]) -> dict[str, float]:
    """A number for each group that a pattern matches; later patterns win.

    Raises:
        UserError: a pattern matches nothing.
    """
    found: dict[str, float] = {}
    for pattern, number in numbers.items():
        _refuse_unmatched(groups, pattern)
        found.update({group.name: number for group in groups if _matches(group, pattern)})
    return found


def check_widths(groups: Iterable[Group], widths: Mapping[str, int]) -> None:
    """Nothing, if widths are those of groups that exist.

    Raises:
        UserError: a group is unknown, or its width out of range.
    """
    dense = {group.name: group for group in groups}
    for name, width in widths.items():
        if name not in dense:
            raise UserError(f"there is no group {name!r} to prune{did_you_mean(name, dense)}")
        if not dense[name].least <= width <= dense[name].width:
            raise UserError(f"group {name!r} keeps {dense[name].least} to {dense[name].width} structures, not {width}")


def _matches(group: Group, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (group.name, *group.producers))


def _refuse_unmatched(groups: Sequence[Group], pattern: str) -> None:
    if not any(_matches(group, pattern) for group in groups):
        names = sorted({name for group in groups for name in (group.name, *group.producers)})
        raise UserError(
            f"{pattern!r} matches no group that can be pruned{did_you_mean(pattern, names)}; there are "
            f"{', '.join(names) or 'none'}"
        )
