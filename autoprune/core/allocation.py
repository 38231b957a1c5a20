"""How much of each group stays: what a search looks for."""

from __future__ import annotations

import math
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from autoprune.errors import UserError


class Allocation(Mapping[str, int]):
    """Group name to kept width, immutable and hashable; equal if the widths are, in whatever order they were given."""

    __slots__ = ("_hash", "_widths")

    def __init__(self, widths: Mapping[str, int]) -> None:
        plain = set(map(type, widths.values())) == {int} and min(widths.values()) >= 0
        for group, width in () if plain else widths.items():
            if isinstance(width, bool) or not isinstance(width, int) or width < 0:
                raise UserError(f"width of group {group!r} should be a whole number of at least 0 but is {width!r}")
        self._widths = dict(widths)
        self._hash = hash(frozenset(self._widths.items()))

    def __getitem__(self, group: str) -> int:
        return self._widths[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self._widths)

    def __len__(self) -> int:
        return len(self._widths)

    # As `Mapping` has them, only faster.
    def keys(self) -> KeysView[str]:
        return self._widths.keys()

    def items(self) -> ItemsView[str, int]:
        return self._widths.items()

    def values(self) -> ValuesView[int]:
        return self._widths.values()

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Allocation], tuple[dict[str, int]]]:
        """Makes it anew where it is unpickled: another process hashes names otherwise."""
        return Allocation, (self._widths,)

    def __repr__(self) -> str:
        return f"Allocation({self._widths})"

    def to_json(self) -> dict[str, int]:
        """Returns a plain dictionary, for JSON and YAML."""
        return dict(self._widths)

    @classmethod
    def from_json(cls, data: Any) -> Allocation:
        """Returns the allocation that `to_json` wrote.

        Raises:
            UserError: `data` is no mapping of names to whole numbers.
        """
        if not isinstance(data, Mapping):
            raise UserError(f"widths should map group names to whole numbers but are {data!r}")
        return cls({str(group): width for group, width in data.items()})


def width_from_sparsity(width: int, sparsity: float) -> int:
    """Returns how many of `width` structures stay at a sparsity (the fraction removed, in [0, 1]).

    Removed are floor(width · sparsity + 1e-9), so that 10 · 0.3 removes 3 in spite of binary fractions.
    """
    return width - math.floor(width * sparsity + 1e-9)
