"""What a search space reaches of a network, what it passes over and why, as shares of the whole network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from autoprune.core.costs import CostTable
from autoprune.core.space import SearchSpace
from autoprune.graph.channel_ids import Reason
from autoprune.graph.overview.frozen import shorten
from autoprune.graph.overview.shares import UNFOLLOWED, Owner, costs_by_owner
from autoprune.pruning.structures import Structures

_KINDS = ("flops", "params")
_SHOWN = 4
_LEAST = 5e-5
"""Shares that would print as 0.0 % are left out of lines."""


@dataclass(frozen=True)
class PassedOver:
    """What a search leaves as it is for one reason.

    Attributes:
        groups: names of groups that the space does not search; none where channels are frozen.
        line: file and line of the user's code that is the reason; empty where it is none.
        shares: of the whole network's `flops` and `params`, in [0, 1].
    """

    groups: tuple[str, ...]
    reason: str
    line: str
    shares: Mapping[str, float]

    def costs_anything(self) -> bool:
        """Tells whether it has any share."""
        return any(self.shares.values())

    def __str__(self) -> str:
        named = f"{shorten(self.groups)}: " if self.groups else ""
        where = f" ({self.line})" if self.line else ""
        return f"{named}{self.reason}{where}: {100 * self.shares['flops']:.1f} %, {100 * self.shares['params']:.1f} %"


@dataclass(frozen=True)
class Coverage:
    """What a search space reaches of a network.

    A layer counts for the group that its output channels are in, and its costs are shared out where there are several;
    what is saved in it because inputs of it go is not asked. All shares are of the whole network, and add up to 1.

    Attributes:
        by_group: group to its shares of `flops` and `params`, whether or not the space searches it.
        searched: the shares of all that are searched.
        passed: what is left as it is, the largest share of FLOPs first.
        narrowest: the shares of `flops` and `params` that stay with everything at its narrowest.
        groups: how many are searched.
        effective: whether weights are set to zero.
        start: what to know of the network that the search starts from, a sentence, if anything.
    """

    by_group: Mapping[str, Mapping[str, float]]
    searched: Mapping[str, float]
    passed: tuple[PassedOver, ...]
    narrowest: Mapping[str, float]
    groups: int
    effective: bool
    start: str = ""

    def lines(self) -> list[str]:
        """Returns what is searched, what is passed over and why, and how far it goes, a line each."""
        count = f"{self.groups} group{'' if self.groups == 1 else 's'}"
        found = [f"searched: {count} with {_amounts(self.searched)}"]
        passed = [each for each in self.passed if max(each.shares.values()) >= _LEAST]
        if passed:
            whole = {kind: sum(each.shares[kind] for each in passed) for kind in _KINDS}
            shown = "; ".join(map(str, passed[:_SHOWN]))
            more = len(passed) - _SHOWN
            rest = f"; and {more} more reason{'' if more == 1 else 's'} (autoprune inspect)" if more > 0 else ""
            found.append(f"passed over: {_amounts(whole)} ({shown}{rest})")
        least = _amounts(self.narrowest, "effective " if self.effective else "")
        return [*filter(None, [self.start]), *found, f"the narrowest that the space allows has {least}"]


def _amounts(shares: Mapping[str, float], kind: str = "") -> str:
    return (
        f"{100 * shares['flops']:.1f} % of the {kind}FLOPs and {100 * shares['params']:.1f} % of the {kind}parameters"
    )


def measure_coverage(network: nn.Module, structures: Structures, costs: CostTable, space: SearchSpace) -> Coverage:
    """Measures what a space reaches of a network.

    Args:
        network: the dense one.
        structures: of this network.
        costs: of this network under these structures.
        space: over these structures.
    """
    dense = costs.dense()
    owned = _costs_by_owner(network, structures, costs)
    rest = {kind: dense[kind] - owned[kind].total() for kind in _KINDS}
    for kind, cost in rest.items():
        owned[kind][UNFOLLOWED] += max(cost, 0)
    owners: dict[Owner, dict[str, float]] = {
        owner: {kind: owned[kind][owner] / max(dense[kind], 1) for kind in _KINDS}
        for owner in {**owned["flops"], **owned["params"]}
    }
    why: dict[tuple[str, str], list[Owner]] = {}
    for owner in owners:
        if isinstance(owner, Reason):
            why.setdefault((owner.text, owner.line), []).append(owner)
        elif owner not in space.bounds:
            why.setdefault((space.pinned.get(owner, "not in the space"), ""), []).append(owner)
    passed = [
        PassedOver(tuple(o for o in alike if isinstance(o, str)), reason, line, _sum([owners[o] for o in alike]))
        for (reason, line), alike in why.items()
    ]
    narrowest = costs.costs(space.narrowest())
    return Coverage(
        {owner: shares for owner, shares in owners.items() if isinstance(owner, str)},
        _sum([shares for owner, shares in owners.items() if owner in space.bounds]),
        tuple(sorted(filter(PassedOver.costs_anything, passed), key=lambda each: -each.shares["flops"])),
        {kind: narrowest[kind] / max(dense[kind], 1) for kind in _KINDS},
        len(space.groups),
        costs.effective,
    )


def _sum(shares: list[dict[str, float]]) -> dict[str, float]:
    return {kind: sum(each[kind] for each in shares) for kind in _KINDS}


def _costs_by_owner(network: nn.Module, structures: Structures, costs: CostTable) -> dict[str, Counter[Owner]]:
    """Divides costs by groups and reasons; where no channels go, a group has what is saved without all of it."""
    if structures.pattern.coupled and structures.graph is not None:
        return costs_by_owner(network, structures.graph)
    dense = costs.dense()
    found: dict[str, Counter[Owner]] = {kind: Counter() for kind in _KINDS}
    for group in structures.groups:
        without = costs.costs({group.name: 0})
        for kind in _KINDS:
            found[kind][group.name] = dense[kind] - without[kind]
    return found
