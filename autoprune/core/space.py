"""Which groups may be pruned, how far, and in which steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal, get_args

from autoprune.core.allocation import Allocation
from autoprune.core.fields import Checked, Fault, Positive, UpToOne
from autoprune.core.settings import Dimension, criterion_pattern
from autoprune.errors import ConfigError, UserError, did_you_mean

GroupKind = Literal["heads", "hidden", "stream", ""]
"""Kinds of groups of channels: heads of attention, units inside one residual branch (of an MLP, between convolutions),
the residual stream that branches add to, or none of these."""

BY_KIND = "kind:"
"""Begins a pattern of a kind of groups instead of names."""


@dataclass(frozen=True)
class Group:
    """What a search has to know of a group of channels; the network itself stays outside.

    Attributes:
        name: qualified name of the first module, in forward order, that produces its channels.
        width: number of structures in the dense network.
        producers: the layers that produce its channels, in forward order; more than one if an addition ties them.
        types: class names of the producers, in the same order.
        first, last: whether a producer is the network's first or last layer with weights.
        least: structures that stay at the very least; 0 where a whole layer may go.
        grain: kept widths are multiples of it, whatever a search space says.
        parameter: qualified name of the one weight that it is a part of; empty where it has several.
        lead: the group in the same residual branch at whose width 0 the branch is removed, and this one with it; None
            where no branch goes, and for the lead itself.
        kind: what it is.
        parts: the groups that it stands for, which have to be equally wide; empty where it is one by itself.
    """

    name: str
    width: int
    producers: tuple[str, ...]
    types: tuple[str, ...]
    first: bool = False
    last: bool = False
    least: int = 1
    grain: int = 1
    lead: str | None = None
    parameter: str = ""
    kind: GroupKind = ""
    parts: tuple[Group, ...] = ()

    @property
    def removable(self) -> bool:
        """Whether it may go whole by itself, so that nothing of it is kept."""
        return self.least == 0 and self.lead is None

    @property
    def each(self) -> tuple[Group, ...]:
        """The groups that it stands for, or itself."""
        return self.parts or (self,)

    @property
    def coupled(self) -> bool:
        """Whether several layers share the channels, as on a residual stream."""
        return len(self.producers) > 1

    @property
    def structures(self) -> str:
        """Name of its structures, in the plural."""
        if self.kind in ("heads", "stream"):
            return self.kind
        layers = {name.rpartition(".")[0] for name in self.producers}  # a recurrent layer has several weights
        dense = not any("Conv" in name or name == "Embedding" for name in self.types)
        return "hidden units" if dense and (self.kind == "hidden" or len(layers) == 1) else "channels"


@dataclass(frozen=True)
class Bounds:
    """Limits on the kept width of one group: `floor` ≤ width ≤ `ceiling`, in multiples of `step`; 0 is a multiple.

    The ceiling itself is always allowed, whether or not it is a multiple: the dense width stays reachable.

    Attributes:
        removable: whether 0 is allowed too, at which the group's whole residual branch is removed. What lies between 0
            and the floor is not.
    """

    floor: int
    ceiling: int
    step: int = 1
    removable: bool = False

    @cached_property
    def lowest(self) -> int:
        """The narrowest width but for 0: the first multiple of the step at or above the floor, or the ceiling."""
        return min(-(-self.floor // self.step) * self.step, self.ceiling)

    @property
    def least(self) -> int:
        """The narrowest width of all."""
        return 0 if self.removable else self.lowest

    def levels(self) -> list[int]:
        """Returns every width allowed, ascending."""
        return list(self._levels)

    @cached_property
    def _levels(self) -> tuple[int, ...]:
        steps = range(self.lowest, self.ceiling + 1, self.step)
        removed = (0,) if self.removable else ()
        return (*removed, *steps, *(() if steps and steps[-1] == self.ceiling else (self.ceiling,)))

    def below(self, width: float) -> int:
        """Returns the widest allowed width of at most `width`, or the narrowest of all."""
        if width >= self.ceiling:
            return self.ceiling
        found = math.floor(width + 1e-9) // self.step * self.step
        return found if found >= self.lowest else self.least


@dataclass(frozen=True)
class GroupRule(Checked):
    """How far the groups that match may be pruned; what is None is left to the rule of the whole space."""

    min_keep: UpToOne | None = None
    max_keep: UpToOne | None = None
    multiple_of: Positive | None = None
    pin: bool = False
    depth: bool | None = None


@dataclass(frozen=True)
class SpaceRules(Checked):
    """A search space before it meets a network: what `search_spaces/*.yaml` says.

    Patterns are shell patterns (`layer1.*`) matched against a group's name and the names of its producers, or
    `kind:heads`, `kind:hidden` and `kind:stream`, see `GroupKind`.
    A group is prunable if a pattern of `include` matches, none of `exclude` does, one of its producers is of a type in
    `types` (where given), it is not protected, and, with `coupled` False, it has a single producer.
    `groups` maps a pattern to a rule of its own; later entries win. Where structures are whole layers they have a floor
    of 0, unless a rule of their own says how much of them stays: `min_keep` of the space is for all other groups.
    With `depth` residual branches of channels may be removed too, each by its first group at width 0, unless a group in
    it is pinned or a rule of that first group says `depth: false`; what stays of it keeps to the bounds of its groups.
    Groups that a pattern of `equal` matches are equally wide in every allocation: they are searched as one, named after
    the first, and pinned if one of them is. Branches with some of them are removed by a group of their own.
    `settings` are further dimensions, by name; see `autoprune.core.settings`.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    types: tuple[str, ...] | None = None
    protect: tuple[Literal["first", "last"], ...] = ("first", "last")
    coupled: bool = True
    min_keep: UpToOne = 0.1
    max_keep: UpToOne = 1.0
    multiple_of: Positive = 1
    depth: bool = False
    equal: tuple[str, ...] = ()
    groups: Mapping[str, GroupRule] = field(default_factory=dict)
    source: str = "the default search space"
    settings: Mapping[str, Dimension] = field(default_factory=dict)

    def _contradictions(self) -> Iterator[Fault]:
        rules: dict[tuple[str, ...], SpaceRules | GroupRule] = {(): self}
        rules |= {("groups", pattern): rule for pattern, rule in self.groups.items() if rule != GroupRule(pin=rule.pin)}
        for keys, rule in rules.items():
            least = self.min_keep if rule.min_keep is None else rule.min_keep
            most = self.max_keep if rule.max_keep is None else rule.max_keep
            if least > most:
                yield (*keys, "max_keep"), f"{most} is below min_keep {least}"
            if isinstance(rule, GroupRule) and rule.depth and not self.depth:
                yield (*keys, "depth"), "is for spaces of which depth is true as a whole"


@dataclass(frozen=True)
class SearchSpace:
    """The prunable groups of one network with their bounds, and why the others are pinned to their dense width.

    Attributes:
        settings: what is searched beside the widths, by name.
        staying: why residual branches may not be removed, by the group at whose width 0 they would be.
    """

    groups: tuple[Group, ...]
    bounds: Mapping[str, Bounds]
    pinned: Mapping[str, str] = field(default_factory=dict)
    source: str = "the default search space"
    settings: Mapping[str, Dimension] = field(default_factory=dict)
    staying: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in self.groups:
            bounds = self.bounds[group.name]
            if not min(group.least, bounds.ceiling) <= bounds.floor <= bounds.ceiling <= group.width:
                raise UserError(
                    f"bounds of group {group.name!r} should lie within {group.least} and {group.width} but are {bounds}"
                )

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self.groups)

    @cached_property
    def leads(self) -> Mapping[str, str]:
        """The groups that are removed with another one, and that one: the lead of their branch."""
        free = {name for name in self.names if self.bounds[name].removable}
        return {group.name: group.lead for group in self.groups if group.lead is not None and group.lead in free}

    def dense(self) -> Allocation:
        """Returns every group at its full width, even where the ceiling is lower."""
        return Allocation({group.name: group.width for group in self.groups})

    def widest(self) -> Allocation:
        """Returns every group at its ceiling."""
        return Allocation({name: self.bounds[name].ceiling for name in self.names})

    def narrowest(self) -> Allocation:
        """Returns every group at the narrowest width allowed, without the branches that may be removed."""
        return Allocation({name: 0 if name in self.leads else self.bounds[name].least for name in self.names})

    def __contains__(self, allocation: object) -> bool:
        """Returns whether an allocation names just the prunable groups, each at a width allowed."""
        if not isinstance(allocation, Allocation) or set(allocation) != set(self.names):
            return False
        removed = {name for name, lead in self.leads.items() if allocation[lead] == 0}
        return all(
            width == 0 if name in removed else self.bounds[name].below(width) == width >= self.bounds[name].least
            for name, width in allocation.items()
        )

    def expanded(self, allocation: Mapping[str, int]) -> Allocation:
        """Returns an allocation as `expand` does."""
        return expand(self.groups, allocation)

    def narrowed(self, ceilings: Mapping[str, int]) -> SearchSpace:
        """Returns the same space with no group wider than its ceiling, a width that the space allows."""
        bounds = {name: _under(self.bounds[name], ceilings[name]) for name in self.names}
        return replace(self, bounds=bounds)


def _under(bounds: Bounds, ceiling: int) -> Bounds:
    """Returns bounds with another ceiling; at 0 nothing can come back."""
    return replace(bounds, ceiling=ceiling) if ceiling else Bounds(0, 0, bounds.step)


def build_space(rules: SpaceRules, groups: Sequence[Group], reasons: Sequence[str] = ()) -> SearchSpace:
    """Returns the search space that `rules` describe over the groups of a network.

    Args:
        rules: which may be pruned, and how far.
        groups: in forward order.
        reasons: why all the rest stays, for an error.

    Raises:
        ConfigError: a pattern matches nothing, or no group is left to prune.
    """
    if not groups:
        raise ConfigError([nothing_to_prune(reasons)])
    faults = _patterns_without_match(rules, groups)
    if faults:
        raise ConfigError([f"{rules.source}: {fault}" for fault in faults])
    pinned = {group.name: reason for group in groups if (reason := _why_pinned(rules, group))}
    free = tuple(group for group in groups if group.name not in pinned)
    if not free:
        why = [*(f"{', '.join(names)}: {reason}" for reason, names in _by_reason(pinned).items()), *reasons]
        raise ConfigError([f"{rules.source}: no group is left to prune:", *(f"  {line}" for line in why)])
    staying = _why_staying(rules, groups, pinned)
    bounds = {group.name: _bounds(rules, group, removable=group.name not in staying) for group in free}
    return SearchSpace(free, bounds, pinned, rules.source, dict(rules.settings), staying)


def nothing_to_prune(reasons: Sequence[str]) -> str:
    """Returns what to say of a network without groups: all the reasons."""
    lines = reasons or ["no layer in it has channels that can be told apart"]
    return "\n".join(["nothing in this network can be pruned:", *(f"  {line}" for line in lines)])


def _by_reason(pinned: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in pinned.items():
        found.setdefault(reason, []).append(name)
    return found


def equal_sets(groups: Sequence[Group], patterns: Sequence[str]) -> list[list[Group]]:
    """Returns sets of groups that are to be equally wide, each in forward order; of patterns that overlap, joined.

    Raises:
        UserError: their dense widths differ.
    """
    sets = [[group] for group in groups]
    for pattern in patterns:
        joined = [found for found in sets if any(_matches(pattern, group) for group in found)]
        if joined:
            joined[0][:] = [group for group in groups if any(group in found for found in joined)]
            sets = [found for found in sets if found is joined[0] or found not in joined]
        odd = [group for group in joined[0] if group.width != joined[0][0].width] if joined else []
        if odd:
            first = joined[0][0]
            raise UserError(
                f"equal: {pattern!r} matches groups of different widths: {first.name!r} has {first.width} structures, "
                f"{odd[0].name!r} has {odd[0].width}"
            )
    return [found for found in sets if len(found) > 1]


def as_one(groups: Sequence[Group]) -> Group:
    """Returns the group that stands for several ones of one width, whose branches are removed by others."""
    first = groups[0]
    return Group(
        first.name,
        first.width,
        tuple(name for group in groups for name in group.producers),
        tuple(name for group in groups for name in group.types),
        any(group.first for group in groups),
        any(group.last for group in groups),
        grain=math.lcm(*(group.grain for group in groups)),
        kind=first.kind if len({group.kind for group in groups}) == 1 else "",
        parts=tuple(groups),
    )


def expand(groups: Sequence[Group], allocation: Mapping[str, int]) -> Allocation:
    """Returns the widths of groups by themselves, where some are searched as one: of those in a removed branch, 0."""
    own = {part.lead for group in groups for part in group.parts}  # they say only what their groups do
    return Allocation(
        {
            part.name: 0 if part.lead and allocation.get(part.lead) == 0 else allocation[group.name]
            for group in groups
            if group.name in allocation and group.name not in own
            for part in group.each
        }
    )


def matching(pattern: str, groups: Sequence[Group]) -> list[str]:
    """Returns the names of the groups that a pattern matches, by name, a producer's, their weight's or their kind."""
    return [group.name for group in groups if _matches(pattern, group)]


def _names(group: Group) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(name for part in group.each for name in (part.name, *part.producers, part.parameter) if name)
    )


def _matches(pattern: str, group: Group) -> bool:
    if group.parts:
        return any(_matches(pattern, part) for part in group.parts)
    if pattern.startswith(BY_KIND):
        return pattern == f"{BY_KIND}{group.kind}"
    return any(fnmatchcase(name, pattern) for name in _names(group))


def _patterns_without_match(rules: SpaceRules, groups: Sequence[Group]) -> list[str]:
    kinds = [f"{BY_KIND}{kind}" for kind in get_args(GroupKind) if kind]  # which a network may do without
    names = sorted({name for group in groups for name in _names(group)} | set(kinds))
    patterns = [("include", p) for p in rules.include] + [("exclude", p) for p in rules.exclude]
    patterns += [("equal", p) for p in rules.equal] + [("groups", p) for p in rules.groups]
    patterns += [("settings", p) for name in rules.settings if (p := criterion_pattern(name))]
    return [
        f"{place}: {pattern!r} matches no group{did_you_mean(pattern, names)}; `autoprune inspect` lists them"
        for place, pattern in patterns
        if pattern not in kinds and not any(_matches(pattern, group) for group in groups)
    ]


def _rules_for(rules: SpaceRules, group: Group) -> list[GroupRule]:
    return [rule for pattern, rule in rules.groups.items() if _matches(pattern, group)]


def _why_pinned(rules: SpaceRules, group: Group) -> str | None:
    if group.parts:
        reasons = ((part.name, _why_pinned(rules, part)) for part in group.parts)
        return next((f"as wide as {name}: {reason}" for name, reason in reasons if reason), None)
    if not any(_matches(pattern, group) for pattern in rules.include):
        return "not included"
    if any(_matches(pattern, group) for pattern in rules.exclude):
        return "excluded"
    if rules.types is not None and not set(rules.types) & set(group.types):
        return f"type {group.types[0]} is not among {', '.join(rules.types)}"
    if group.first and "first" in rules.protect:
        return "holds the first layer (protect: first)"
    if group.last and "last" in rules.protect:
        return "holds the last layer (protect: last)"
    if group.coupled and not rules.coupled:
        return "shared by several layers (coupled: false)"
    if any(rule.pin for rule in _rules_for(rules, group)):
        return "pinned"
    return None


def _why_staying(rules: SpaceRules, groups: Sequence[Group], pinned: Mapping[str, str]) -> dict[str, str]:
    """Returns why branches of channels may not be removed, by their leads."""
    staying: dict[str, str] = {}
    for group in groups if rules.depth else ():
        for part in group.each:
            if group.name in pinned and (part.removable or part.lead):
                staying.setdefault(part.lead or part.name, f"{part.name} in it stays: {pinned[group.name]}")
        if group.removable and _last_of([rule.depth for rule in _rules_for(rules, group)], True) is False:
            staying.setdefault(group.name, "depth: false")
    return staying


def _last_of(values: list[Any], default: Any) -> Any:
    return next((value for value in reversed(values) if value is not None), default)


def _bounds(rules: SpaceRules, group: Group, removable: bool) -> Bounds:
    last_of, own = _last_of, _rules_for(rules, group)
    whole = group.removable and not rules.depth
    min_keep = last_of([rule.min_keep for rule in own], 0.0 if whole else rules.min_keep)
    max_keep = last_of([rule.max_keep for rule in own], rules.max_keep)
    step = last_of([rule.multiple_of for rule in own], rules.multiple_of)
    step = min(math.lcm(step, group.grain), group.width)
    ceiling = max(1, math.floor(group.width * max_keep + 1e-9))
    if step <= ceiling < group.width:  # only the dense width may be no multiple
        ceiling = ceiling // step * step
    least = 1 if rules.depth else group.least
    floor = min(max(least, math.ceil(group.width * min_keep - 1e-9)), ceiling)
    return Bounds(floor, ceiling, step, rules.depth and group.removable and removable)
