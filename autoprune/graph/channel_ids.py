"""Channel ids: numbers that stand for channels, which can be tied together or frozen."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class ChannelIds:
    """A growing set of ids, some tied into classes that stay or go together, some frozen.

    A disjoint-set forest (Tarjan 1975); the root of a class is its least id, so that results do not depend on the
    order of ties.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, count: int) -> Tensor:
        """Returns `[count]` new ids, each alone in its class."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def root(self, one: int) -> int:
        """Returns the root of an id's class."""
        while self._parent[one] != one:
            self._parent[one] = self._parent[self._parent[one]]  # halves the path for the next look-up
            one = self._parent[one]
        return one

    def tie(self, left: Tensor, right: Tensor) -> None:
        """Ties the ids at the same positions of two arrays, both `[…]` of any one shape."""
        for a, b in {(a, b) for a, b in zip(left.flatten().tolist(), right.flatten().tolist(), strict=True) if a != b}:
            low, high = sorted((self.root(a), self.root(b)))
            self._parent[high] = low

    def to_roots(self, ids: Tensor) -> Tensor:
        """Returns `[…]` ids, each replaced by the root of its class, so that tied ids are equal; shape unchanged."""
        small = compress(ids)
        roots = [self.root(one) for one in small.flatten().tolist()]
        return torch.tensor(roots, dtype=torch.long).view(small.shape).expand(ids.shape)

    def along(self, ids: Tensor, dim: int) -> Tensor | None:
        """Returns the `[size]` ids along one axis of `[…]`, or None where ids that are not tied vary along another."""
        dim %= ids.dim()
        if any(other != dim for other in varying(ids)) and varying(self.to_roots(ids)) not in ([], [dim]):
            return None
        return first_along(ids, set(range(ids.dim())) - {dim}).flatten()

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Marks the classes of `[…]` ids as never to be removed; the first reason given for an id is kept."""
        for one in sorted(set(ids.flatten().tolist())):
            self._reasons.setdefault(one, reason)

    def roots(self) -> Tensor:
        """Returns the root of every id, `[ids]`."""
        return torch.tensor([self.root(one) for one in range(len(self._parent))], dtype=torch.long)

    def reasons(self) -> dict[int, str]:
        """Maps the root of every frozen class to the reason, that of its least frozen id."""
        reasons: dict[int, str] = {}
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
        if ids.size(dim) == 1:
            continue
        first = first_along(ids, [dim])
        if ids.stride(dim) == 0 or bool((ids == first).all()):
            ids = first
    return ids


def varying(ids: Tensor) -> list[int]:
    """Returns the axes along which `[…]` ids vary, ascending."""
    return [dim for dim, size in enumerate(compress(ids).shape) if size > 1]


def lay_along(ids: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Lays `[size]` ids along one axis of an activation of that shape, without memory for the other axes.

    Args:
        ids: `[size]`, one for each entry of the axis.
        shape: of the activation and of the result.
        dim: the axis; negative ones count from the last.
    """
    view = [1] * len(shape)
    view[dim % len(shape)] = len(ids)
    return ids.view(view).expand(shape)


def thin_ids(ids: Tensor, keep: Tensor) -> Tensor | None:
    """Drops the ids that go from each axis; None where those that stay do not form an array.

    Args:
        ids: `[…]` of any shape.
        keep: `[ids]` for every id there is, whether it stays.
    """
    small = compress(ids)
    stays = keep[small]
    rows = [stays.movedim(dim, 0).flatten(1).any(1) if small.dim() > 1 else stays for dim in range(small.dim())]
    # Rows with something in them span an array; if it has more entries than stay, there are holes in it.
    if math.prod(int(kept.sum()) for kept in rows) != int(stays.sum()):
        return None
    shape = list(ids.shape)
    for dim, kept in enumerate(rows):
        if small.size(dim) > 1:
            small = small.index_select(dim, kept.nonzero().flatten())
            shape[dim] = small.size(dim)
    return small.expand(shape)
