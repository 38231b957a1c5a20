"""Targets of a pruning: an amount for all groups, amounts by layer, or the widths that a search found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.allocation import Allocation, width_from_sparsity
from autoprune.core.space import Group, matching
from autoprune.errors import UserError, did_you_mean
from autoprune.pruning.allocators import UNIFORM
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.schedules import Growth
from autoprune.pruning.surgery.masks import Importance, Widths


@dataclass(frozen=True)
class _Amount:
    """What the allocator takes for some groups together: at progress 0 of the schedule, and at progress 1."""

    groups: tuple[Group, ...]
    first: float
    last: float


@dataclass(frozen=True)
class AmountTarget:
    """Amounts, which the pruner's allocator turns into widths."""

    pruner: Pruner
    amounts: tuple[_Amount, ...]

    def widths(self, importance: Importance, progress: float) -> Allocation:
        """Returns the kept width of each group at a progress of the updates.

        Args:
            importance: group name to `[structures]` scores (`[choices, structures]` with N:M).
            progress: in [0, 1].
        """
        widths: dict[str, int] = {}
        for amount in self.amounts:
            now = self.pruner.schedule.curve(progress, amount.first, amount.last)
            widths.update(self.pruner.allocator.widths(amount.groups, importance, now))
        return Allocation(widths)


@dataclass(frozen=True)
class WidthsTarget:
    """Given widths; on the way to them every group's sparsity follows the curve."""

    groups: tuple[Group, ...]
    last: Widths
    curve: Growth

    def widths(self, importance: Importance, progress: float) -> Allocation:
        """Returns the kept width of each group at a progress of the updates.

        Args:
            importance: group name to `[structures]` scores (`[choices, structures]` with N:M); not used.
            progress: in [0, 1].
        """

        def now(group: Group) -> int:
            keep = self.last[group.name]
            return max(keep, width_from_sparsity(group.width, self.curve(progress, 0.0, 1 - keep / group.width)))

        return Allocation({group.name: now(group) if progress < 1 else self.last[group.name] for group in self.groups})


Target = AmountTarget | WidthsTarget
"""The widths that a pruning goes to, and those on the way there."""


def matching_groups(groups: Sequence[Group], patterns: Sequence[str]) -> tuple[Group, ...]:
    """Returns the groups of which the name, or a layer's name, matches one of some shell patterns.

    Raises:
        UserError: a pattern matches nothing.
    """
    names = {name for pattern in patterns for name in _matching(pattern, groups)}
    return tuple(group for group in groups if group.name in names)


def amounts_by_group(groups: Sequence[Group], amounts: Mapping[str, float]) -> dict[str, float]:
    """Returns the amount of each group that a shell pattern matches; later patterns win.

    Raises:
        UserError: a pattern matches nothing.
    """
    found: dict[str, float] = {}
    for pattern, amount in amounts.items():
        found.update(dict.fromkeys(_matching(pattern, groups), amount))
    return found


def _matching(pattern: str, groups: Sequence[Group]) -> list[str]:
    """Returns the names of the groups that a shell pattern matches.

    Raises:
        UserError: there is none.
    """
    found = matching(pattern, groups)
    if not found:
        names = sorted({name for group in groups for name in (group.name, *group.producers)})
        raise UserError(
            f"{pattern!r} matches no group that can be pruned{did_you_mean(pattern, names)}; there are "
            f"{', '.join(names) or 'none'}"
        )
    return found


def resolve_target(
    groups: Sequence[Group],
    pruner: Pruner,
    amount: float | Mapping[str, float] | None,
    widths: Widths | None,
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
        pruned = tuple(group for group in groups if group.name in widths)
        return pruned, WidthsTarget(pruned, dict(widths), pruner.schedule.curve)
    if isinstance(amount, Mapping):
        last = amounts_by_group(groups, amount)
        pruned = tuple(group for group in groups if group.name in last)
        amounts = [_Amount((group,), min(initial, last[group.name]), last[group.name]) for group in pruned]
    else:
        assert amount is not None  # one of both is given
        pruned = tuple(groups)
        amounts = [_Amount(pruned, initial, amount)]
    for found in amounts:
        _check(found, pruner)
    return pruned, AmountTarget(pruner, tuple(amounts))


def _check(amount: _Amount, pruner: Pruner) -> None:
    """Checks, before hours of training and not after, that the allocator takes all numbers from the first to the last.

    Raises:
        UserError: it does not, the first is above the last, or the last is a sparsity too small to remove any of every
            m weights, of which the pattern keeps n.
    """
    first, last, curve = amount.first, amount.last, pruner.schedule.curve
    for number in (first, last, curve(0.0, first, last), curve(1.0, first, last)):
        pruner.allocator.check(number)
    if first > last:
        raise UserError(f"a pruning starts with less than it ends with, not at {first} and then {last}")
    n_of_m = 1 < pruner.pattern.least == pruner.pattern.grain
    if not (n_of_m and pruner.allocator is UNIFORM and last > 0):
        return
    for group in amount.groups:
        if UNIFORM.widths([group], {}, last)[group.name] == group.width:
            raise UserError(
                f"pattern {pruner.pattern.name!r} removes {1 - pruner.pattern.least / group.width:g} of a weight or "
                f"nothing; a sparsity of {last:g} leaves all of {group.name!r}"
            )


def check_widths(groups: Iterable[Group], widths: Widths) -> None:
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
