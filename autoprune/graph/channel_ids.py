"""Channel ids: numbers that stand for channels, which can be tied together or frozen."""

from __future__ import annotations

import torch
from torch import Tensor


class ChannelIds:
    """A growing set of ids, some tied into classes that live or die together, some frozen.

    A forest of parents (Tarjan 1975); the root of a class is its least id, so that results do not depend on the order
    of ties.
    """

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parent)

    def fresh(self, count: int) -> Tensor:
        """`[count]` new ids, each alone in its class."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def frozen(self, reason: str) -> Tensor:
        """One new frozen id, `[1]`: it stands for any number of channels that cannot be told apart."""
        new = self.fresh(1)
        self.freeze(new, reason)
        return new

    def root(self, one: int) -> int:
        while self._parent[one] != one:
            self._parent[one] = self._parent[self._parent[one]]
            one = self._parent[one]
        return one

    def tie(self, left: Tensor, right: Tensor) -> None:
        """Ties ids pairwise; both have the same shape."""
        for a, b in {(a, b) for a, b in zip(left.flatten().tolist(), right.flatten().tolist(), strict=True) if a != b}:
            low, high = sorted((self.root(a), self.root(b)))
            self._parent[high] = low

    def rooted(self, ids: Tensor) -> Tensor:
        """The ids with each replaced by the root of its class: what is tied does not vary."""
        small = compress(ids)
        roots = [self.root(one) for one in small.flatten().tolist()]
        return torch.tensor(roots, dtype=torch.long).view(small.shape).expand(ids.shape)

    def along(self, ids: Tensor, dim: int) -> Tensor | None:
        """`[size]` the ids along one axis, or None where others than tied ones lie along another axis."""
        dim %= ids.dim()
        if any(other != dim for other in varying(ids)) and varying(self.rooted(ids)) not in ([], [dim]):
            return None
        for other in range(ids.dim()):
            if other != dim:
                ids = ids.narrow(other, 0, 1)
        return ids.flatten()

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Marks classes as never to be removed; the first reason given for an id is kept."""
        for one in sorted(set(ids.flatten().tolist())):
            self._reasons.setdefault(one, reason)

    def roots(self) -> Tensor:
        """`[ids]` the root of every id."""
        return torch.tensor([self.root(one) for one in range(len(self._parent))], dtype=torch.long)

    def reasons(self) -> dict[int, str]:
        """Root of every frozen class to the reason, that of its least frozen id."""
        reasons: dict[int, str] = {}
        for one in sorted(self._reasons):
            reasons.setdefault(self.root(one), self._reasons[one])
        return reasons


def compress(ids: Tensor) -> Tensor:
    """The same ids with every axis along which they do not vary narrowed to length 1."""
    for dim in range(ids.dim()):
        if ids.size(dim) == 1:
            continue
        first = ids.narrow(dim, 0, 1)
        if ids.stride(dim) == 0 or bool((ids == first).all()):
            ids = first
    return ids


def varying(ids: Tensor) -> list[int]:
    """The axes along which ids vary."""
    return [dim for dim, size in enumerate(compress(ids).shape) if size > 1]


def spread(ids: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """`[size]` ids laid along one axis of an activation of that shape, without using memory for the other axes."""
    view = [1] * len(shape)
    view[dim % len(shape)] = len(ids)
    return ids.view(view).expand(shape)


def thin_ids(ids: Tensor, keep: Tensor) -> Tensor | None:
    """The ids that stay, in an array of fewer rows or columns; None if what stays is no rectangle.

    Args:
        ids: of any shape.
        keep: `[ids]` for every id there is, whether it stays.
    """
    small = compress(ids)
    stays = keep[small]
    rows = [stays.movedim(dim, 0).flatten(1).any(1) if small.dim() > 1 else stays for dim in range(small.dim())]
    count = 1
    for kept in rows:
        count *= int(kept.sum())
    if count != int(stays.sum()):
        return None
    shape = list(ids.shape)
    for dim, kept in enumerate(rows):
        if small.size(dim) > 1:
            small = small.index_select(dim, kept.nonzero().flatten())
            shape[dim] = small.size(dim)
    return small.expand(shape)
