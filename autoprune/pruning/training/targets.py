"""Targets of a pruning: an amount for all groups, amounts by layer, or the widths that a search found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from autoprune.core.allocation import Allocation, width_from_sparsity
from autoprune.core.space import Group
from autoprune.errors import UserError, did_you_mean
from autoprune.pruning.allocators import UNIFORM, Allocator
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.schedules import Growth
from autoprune.pruning.surgery.masks import Importance


class Target(Protocol):
    """The widths that a pruning goes to, and those on the way there."""

    def widths(self, groups: Sequence[Group], importance: Importance, curve: Growth, progress: float) -> Allocation:
        """Returns the kept width of each group.

        Args:
            groups: those that are pruned.
            importance: scores of their structures.
            curve: how the amount grows.
            progress: of the updates, in [0, 1].
        """


@dataclass(frozen=True)
class SingleAmount:
    """One amount for all groups, which the allocator turns into widths."""

    allocator: Allocator
    first: float
    last: float

    def widths(self, groups: Sequence[Group], importance: Importance, curve: Growth, progress: float) -> Allocation:
        return self.allocator.widths(groups, importance, curve(progress, self.first, self.last))


@dataclass(frozen=True)
class AmountByGroup:
    """An amount for each group."""

    allocator: Allocator
    first: float
    last: Mapping[str, float]

    def widths(self, groups: Sequence[Group], importance: Importance, curve: Growth, progress: float) -> Allocation:
        widths: dict[str, int] = {}
        for group in groups:
            amount = curve(progress, min(self.first, self.last[group.name]), self.last[group.name])
            widths.update(self.allocator.widths([group], importance, amount))
        return Allocation(widths)


@dataclass(frozen=True)
class GivenWidths:
    """Given widths; on the way to them every group's sparsity follows the curve."""

    last: Mapping[str, int]

    def widths(self, groups: Sequence[Group], importance: Importance, curve: Growth, progress: float) -> Allocation:
        def now(group: Group) -> int:
            keep = self.last[group.name]
            return max(keep, width_from_sparsity(group.width, curve(progress, 0.0, 1 - keep / group.width)))

        return Allocation({group.name: now(group) if progress < 1 else self.last[group.name] for group in groups})


def matching_groups(groups: Sequence[Group], patterns: Sequence[str]) -> tuple[Group, ...]:
    """Returns the groups of which the name, or a layer's name, matches one of some shell patterns.

    Raises:
        UserError: a pattern matches nothing.
    """
    for pattern in patterns:
        _refuse_unmatched(groups, pattern)
    return tuple(group for group in groups if any(_matches(group, pattern) for pattern in patterns))


def amounts_by_group(groups: Sequence[Group], amounts: Mapping[str, float]) -> dict[str, float]:
    """Returns the amount of each group that a shell pattern matches; later patterns win.

    Raises:
        UserError: a pattern matches nothing.
    """
    found: dict[str, float] = {}
    for pattern, amount in amounts.items():
        _refuse_unmatched(groups, pattern)
        found.update({group.name: amount for group in groups if _matches(group, pattern)})
    return found


def resolve_target(
    groups: Sequence[Group],
    pruner: Pruner,
    amount: float | Mapping[str, float] | None,
    widths: Mapping[str, int] | None,
    initial: float,
) -> tuple[tuple[Group, ...], Target]:
    """Returns which of some groups are pruned, and to what.

    Args:
        groups: those that may be.
        pruner: its allocator, schedule and pattern count.
        amount: what the allocator takes, for all groups or by shell pattern; None if there are widths.
        widths: group → kept width; None if there is an amount.
        initial: the amount at the first update.

    Raises:
        UserError: both or neither of amount and widths are given, a number is out of range, or a name matches nothing.
    """
    if (amount is None) == (widths is None):
        raise UserError("a pruning needs an amount (0.5, say) or the widths to prune to: one of both")
    if widths is not None:
        check_widths(groups, widths)
        return tuple(group for group in groups if group.name in widths), GivenWidths(dict(widths))
    if isinstance(amount, Mapping):
        amounts = amounts_by_group(groups, amount)
        for last in amounts.values():
            _check_amounts(pruner, min(initial, last), last)
        pruned = tuple(group for group in groups if group.name in amounts)
        for group in pruned:
            _check_removes(group, pruner, amounts[group.name])
        return pruned, AmountByGroup(pruner.allocator, initial, amounts)
    assert amount is not None  # one of both is given
    _check_amounts(pruner, initial, amount)
    for group in groups:
        _check_removes(group, pruner, amount)
    return tuple(groups), SingleAmount(pruner.allocator, initial, amount)


def _check_removes(group: Group, pruner: Pruner, amount: float) -> None:
    """Refuses a sparsity that is too small to remove any of every m weights, of which the pattern keeps n."""
    n_of_m = 1 < pruner.pattern.least == pruner.pattern.grain
    if not (n_of_m and pruner.allocator is UNIFORM and amount > 0):
        return
    if UNIFORM.widths([group], {}, amount)[group.name] == group.width:
        raise UserError(
            f"pattern {pruner.pattern.name!r} removes {1 - pruner.pattern.least / group.width:g} of a weight or "
            f"nothing; a sparsity of {amount:g} leaves all of {group.name!r}"
        )


def _check_amounts(pruner: Pruner, first: float, last: float) -> None:
    """Checks that the allocator takes all amounts from the first to the last: before hours of training, not after."""
    for amount in (first, last, *(pruner.schedule.curve(progress, first, last) for progress in (0.0, 1.0))):
        pruner.allocator.check(amount)
    if first > last:
        raise UserError(f"a pruning starts with less than it ends with, not at {first} and then {last}")


def check_widths(groups: Iterable[Group], widths: Mapping[str, int]) -> None:
    """Checks that all widths are those of groups that exist.

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
