"""Channel ids: numbers that stand for channels, which can be tied together or frozen, and arrays of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reason:
    """Why channels stay, and the file and line of the user's code where that was; empty where it is none."""

    text: str
    line: str = ""


class ChannelIds:
    """A growing set of ids, some tied into classes that stay or go together, some frozen.

    A disjoint-set forest (Tarjan 1975) in which whole arrays are looked up and tied at once; the root of a class is its
    least id, so that results do not depend on the order of ties.

    Attributes:
        line: file and line of the user's code that is followed; what is frozen is so because of it.
    """

    def __init__(self) -> None:
        self._parent = torch.empty(0, dtype=torch.long)  # longer than there are ids, which are its beginning
        self._count = 0
        self._reasons: dict[int, Reason] = {}
        self.line = ""

    def __len__(self) -> int:
        return self._count

    def new(self, count: int) -> Tensor:
        """Returns `[count]` new ids, each alone in its class."""
        made = torch.arange(self._count, self._count + count)
        self._count += count
        if self._count > len(self._parent):
            self._parent = torch.cat([self._parent, torch.arange(len(self._parent), 2 * self._count)])
        return made

    def root(self, one: int) -> int:
        """Returns the root of an id's class."""
        return int(self._find(torch.tensor([one])))

    def _find(self, ids: Tensor) -> Tensor:
        """Returns the root of each of `[…]` ids, all at once, and lets the ids point there."""
        found = self._parent[ids]
        while not torch.equal(found, above := self._parent[found]):
            found = above
        self._parent[ids] = found
        return found

    def tie(self, left: Tensor, right: Tensor) -> None:
        """Ties the ids at the same positions of two arrays, `[…]` of shapes that broadcast."""
        left, right = torch.broadcast_tensors(self._find(left), self._find(right))  # type: ignore[no-untyped-call]
        while (apart := left != right).any():
            left, right = left[apart], right[apart]
            low, high = torch.minimum(left, right), torch.maximum(left, right)
            self._parent.scatter_reduce_(0, high, low, "amin")  # of several lower ones the least: others come round
            left, right = self._find(low), self._find(high)

    def tie_along(self, ids: Tensor, axes: Iterable[int]) -> None:
        """Ties the entries of `[…]` ids along some axes, so that they stay or go together."""
        self.tie(ids, first_along(ids, axes))

    def rooted(self, ids: Tensor) -> Tensor:
        """Returns `[…]` ids, each replaced by the root of its class; axes along which they do not vary are cut to 1."""
        return compress(self._find(compress(ids)))

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Marks the classes of `[…]` ids as never to be removed; the first reason given for an id is kept."""
        for one in torch.unique(ids).tolist():
            self._reasons.setdefault(one, Reason(reason, self.line))

    def roots(self) -> Tensor:
        """Returns the root of every id, `[ids]`."""
        return self._find(torch.arange(self._count))

    def reasons(self) -> dict[int, Reason]:
        """Maps the root of every frozen class to the reason, that of its least frozen id."""
        reasons: dict[int, Reason] = {}
        for one in sorted(self._reasons):
            reasons.setdefault(self.root(one), self._reasons[one])
        return reasons


def first_along(ids: Tensor, dims: Iterable[int]) -> Tensor:
    """Returns the first of `[…]` ids along each of some axes, which get length 1."""
    for dim in dims:
        ids = ids.narrow(dim, 0, 1)
    return ids


def compress(ids: Tensor) -> Tensor:
    """Narrows every axis of `[…]` ids along which they do not vary to length 1; the number of axes stays."""
    for dim in range(ids.dim()):
        if ids.size(dim) <= 1:
            continue
        first = first_along(ids, [dim])
        if ids.stride(dim) == 0 or bool((ids == first).all()):
            ids = first
    return ids


def axes_of(ids: Tensor) -> list[int]:
    """Returns the axes along which compressed `[…]` ids vary, ascending."""
    return [dim for dim, size in enumerate(ids.shape) if size > 1]


def lay_along(ids: Tensor, rank: int, dim: int) -> Tensor:
    """Lays `[size]` ids along one axis, `[…, size, …]` with length 1 along the others.

    Args:
        ids: `[size]`, one for each entry of the axis.
        rank: number of axes of the result.
        dim: the axis; negative ones count from the last.
    """
    view = [1] * rank
    view[dim % rank] = len(ids)
    return ids.reshape(view)


def thin_ids(arrays: Sequence[Tensor], keep: Tensor) -> list[Tensor] | None:
    """Drops the entries of an activation that go; None where those that stay do not form an array.

    Args:
        arrays: `[…]` ids of one rank, compressed; an entry of an axis goes with its id in any of them.
        keep: `[ids]` for every id there is, whether it stays.
    """
    rank = arrays[0].dim() if arrays else 0
    rows: list[Tensor | None] = [None] * rank
    for ids in arrays:
        stays = keep[ids]
        own = [stays.movedim(dim, 0).flatten(1).any(1) if rank > 1 else stays for dim in range(rank)]
        # Rows with something in them span an array; if it has more entries than stay, there are holes in it.
        if math.prod(int(kept.sum()) for kept in own) != int(stays.sum()):
            return None
        for dim in axes_of(ids):
            before = rows[dim]
            rows[dim] = own[dim] if before is None else before & own[dim]
    found = []
    for ids in arrays:
        for dim in axes_of(ids):
            kept = rows[dim]
            assert kept is not None
            ids = ids.index_select(dim, kept.nonzero().flatten())
        found.append(ids)
    return found


def overlap(one: Tensor, other: Tensor) -> bool:
    """Tells whether two compressed arrays of ids vary along a common axis."""
    return bool(set(axes_of(one)) & set(axes_of(other)))


def covered(arrays: Collection[Tensor]) -> set[int]:
    """Returns the axes along which any of some compressed arrays of ids varies."""
    return {axis for ids in arrays for axis in axes_of(ids)}
