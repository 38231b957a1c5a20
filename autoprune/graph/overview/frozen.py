"""Channels that stay, and why, one line a reason however many layers it is for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SHOWN = 2


@dataclass(frozen=True)
class FrozenChannels:
    """Channels that cannot be removed: made by `layer`, `width` of them, because of `reason`.

    Attributes:
        line: file and line of the user's code that is the reason; empty where it is none.
    """

    layer: str
    width: int
    reason: str
    line: str = ""


@dataclass(frozen=True)
class FrozenReason:
    """A reason with all channels that stay because of it.

    Attributes:
        reason: the first layer's, which may name an operation; those of the others differ in its number alone.
        layers: that make the channels, in forward order.
        width: number of channels.
    """

    reason: str
    line: str
    layers: tuple[str, ...]
    width: int

    def __str__(self) -> str:
        where = f" ({self.line})" if self.line else ""
        return f"{self.width} channels of {shorten(self.layers)}: {self.reason}{where}"


def group_reasons(frozen: Iterable[FrozenChannels]) -> list[FrozenReason]:
    """Groups frozen channels by their reasons, in forward order."""
    found: dict[tuple[str, str], list[FrozenChannels]] = {}
    for each in frozen:
        found.setdefault((unnumbered(each.reason), each.line), []).append(each)
    return [
        FrozenReason(alike[0].reason, line, tuple(dict.fromkeys(e.layer for e in alike)), sum(e.width for e in alike))
        for (_, line), alike in found.items()
    ]


def unnumbered(text: str) -> str:
    """Returns a text without the numbers of operations and of modules in it: `view_3`, `blocks.3.norm`."""
    return re.sub(r"\.\d+\b", ".N", re.sub(r"_\d+\b", "", text))


def shorten(names: Iterable[str]) -> str:
    """Returns names, of many the first ones and how many more there are."""
    listed = list(names)
    more = len(listed) - _SHOWN
    return ", ".join(listed) if more <= 1 else f"{', '.join(listed[:_SHOWN])} and {more} more"
