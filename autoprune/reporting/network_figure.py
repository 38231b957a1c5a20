"""A picture of a network with its groups: its layers in the order in which they run, one a row, as SVG or as a page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoprune.errors import printable
from autoprune.reporting.drawing import LIGHT

_ROW, _GAP, _LANE, _NAME, _GROUP, _RIGHT, _TOP = 30, 6, 11, 330, 560, 1180, 64
_FONT = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;font-size:12px"
_PLAIN = "#e3e7ec"


@dataclass(frozen=True)
class NetworkRow:
    """One layer, or one addition, of a network.

    Attributes:
        name: qualified name of the layer; of an addition, of the module that adds.
        type: its class; empty for an addition.
        sizes: channels that it uses and makes: `64 → 128`.
        group: that its output channels are in; empty where they stay.
        structures: what the group's structures are called.
        reason: why it is not searched; empty where it is.
        flops: its share of the network's FLOPs, in [0, 1].
        sources: rows, by number, whose outputs it uses.
        times: how many layers it stands for.
    """

    name: str
    type: str
    sizes: str
    group: str
    structures: str
    reason: str
    flops: float
    sources: tuple[int, ...]
    times: int = 1

    @property
    def block(self) -> str:
        """The repeated module that it is in: its name up to the last number in it but for its own."""
        found = re.match(r"(.*\.|^)\d+(?=\.|$)", self.name if not self.type else self.name.rpartition(".")[0])
        return found[0] if found else ""

    def alike(self) -> tuple[str, ...]:
        """Returns what is the same for corresponding rows of modules that repeat."""
        inside = self.name.removeprefix(self.block)
        group = "" if not self.group else "own" if self.group.startswith(f"{self.block}.") else self.group
        return inside, self.type, self.sizes, self.structures, group, re.sub(r"\d+", "N", self.reason)


def fold_repeated(rows: Sequence[NetworkRow]) -> list[NetworkRow]:
    """Lets one of several modules in succession that are alike stand for all of them."""
    blocks: list[list[int]] = []
    for i, row in enumerate(rows):
        if not (blocks and row.block and rows[blocks[-1][0]].block == row.block):
            blocks.append([])
        blocks[-1].append(i)
    stands: dict[int, int] = {}  # row to the row that stands for it
    first: list[int] = []
    for block in blocks:
        same = first and [rows[i].alike() for i in block] == [rows[i].alike() for i in first] and rows[block[0]].block
        first = first if same else block
        stands |= dict(zip(block, first, strict=True))
    kept = sorted(set(stands.values()))
    number = {old: new for new, old in enumerate(kept)}
    folded = []
    for old in kept:
        members = [rows[i] for i in stands if stands[i] == old]
        sources = {number[stands[source]] for member in members for source in member.sources}
        earlier = tuple(sorted(source for source in sources if source < number[old]))
        total = sum(member.flops for member in members)
        folded.append(replace(rows[old], flops=total, times=len(members), sources=earlier))
    return folded


def draw_network(title: str, rows: Sequence[NetworkRow], page: bool = False) -> str:
    """Returns the picture of a network, as SVG, or as an HTML page around it.

    Rows have the colour of their group; those that are not searched have a dashed border, frozen ones are grey. Lines
    at the left lead from a layer to those that use its output but are not the next one: residual connections. Modules
    that repeat in succession are drawn once.

    Args:
        title: the network's name and costs.
        rows: in the order in which they run.
        page: whether it is to be a page.
    """
    shown = fold_repeated(rows)
    lanes, count = _assign_lanes(shown)
    left = 40 + _LANE * count
    groups = list(dict.fromkeys(row.group for row in shown if row.group))
    tops = [_TOP + i * (_ROW + _GAP) for i in range(len(shown))]
    parts = [_text(16, 24, title, "font-size:16px;font-weight:600"), _text(16, 44, _LEGEND, f"fill:{LIGHT['muted']}")]
    for (source, target), lane in lanes.items():
        x, y, end = left - 10 - _LANE * lane, tops[source] + 0.68 * _ROW, tops[target] + 0.32 * _ROW
        parts.append(
            _line(f"M{left},{y} H{x + 5} Q{x},{y} {x},{y + 5} V{end - 5} Q{x},{end} {x + 5},{end} H{left - 2}")
        )
    for i, (row, top) in enumerate(zip(shown, tops, strict=True)):
        if i + 1 < len(shown) and i in shown[i + 1].sources:
            parts.append(_line(f"M{left + 24},{top + _ROW} V{top + _ROW + _GAP - 1}"))
        parts.append(_row(row, left, top, _colour(groups, row.group)))
    parts += _brackets(shown, tops, left + _RIGHT)
    width, height = left + _RIGHT + 150, (tops[-1] if tops else _TOP) + _ROW + 20
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'style="{_FONT};background:white" fill="{LIGHT["ink"]}"><defs><marker id="tip" viewBox="0 0 6 6" refX="5" '
        f'refY="3" markerWidth="6" markerHeight="6" orient="auto"><path d="M0,0 L6,3 L0,6 z" fill="{LIGHT["muted"]}"/>'
        f"</marker></defs>{''.join(parts)}</svg>\n"
    )
    return f'<!DOCTYPE html><meta charset="utf-8"><title>{_escape(title)}</title>\n{svg}' if page else svg


_LEGEND = (
    "One row a layer, in the order of the run; its colour is its group; dashed: left out of the search; grey: its "
    "channels stay. Bars: share of the FLOPs. Norms, activations and pools are not drawn."
)


def _row(row: NetworkRow, left: float, top: float, colour: str) -> str:
    """Returns one row: name, class, sizes, group or reason, and share of the FLOPs."""
    dashed = f' stroke-dasharray="4 3" stroke="{LIGHT["muted"]}"' if row.reason else f' stroke="{LIGHT["grid"]}"'
    named = f"{row.group} ({row.structures})" if row.group else ""
    said = f"{named}: {row.reason}" if named and row.reason else named or row.reason
    share = f"{100 * row.flops:.1f} %"
    hover = "\n".join(filter(None, [row.name, f"{row.type} {row.sizes}".strip(), said, f"{share} of the FLOPs"]))
    middle = top + _ROW / 2 + 4
    what = f"{row.type}  {row.sizes}" if row.type else "+"
    cells = [
        _text(left + 12, middle, _cut(row.name, 46) if row.type else "", "font-weight:600"),
        _text(left + (_NAME if row.type else 12), middle, _cut(what, 34), "" if row.type else "font-weight:700"),
        _text(left + _GROUP if row.type else left + 32, middle, _cut(said, 74)),
    ]
    if row.type:
        size = f'width="{max(110 * row.flops, 1):.1f}" height="14" fill="{LIGHT["muted"]}"'
        cells += [f'<rect x="{left + 1000}" y="{top + 8}" {size}/>', _text(left + 1120, middle, share)]
    width = _RIGHT if row.type else _NAME
    box = f'<rect x="{left}" y="{top}" width="{width}" height="{_ROW}" rx="5" fill="{colour}"{dashed}/>'
    return f"<g><title>{_escape(hover)}</title>{box}{''.join(cells)}</g>"


def _brackets(rows: Sequence[NetworkRow], tops: Sequence[float], x: float) -> list[str]:
    """Returns a bracket beside every module that stands for several."""
    parts, start = [], 0
    for i, row in enumerate(rows):
        if i + 1 == len(rows) or rows[i + 1].block != row.block:
            if row.times > 1 and row.block:
                y, end = tops[start], tops[i] + _ROW
                parts.append(_line(f"M{x + 6},{y} H{x + 12} V{end} H{x + 6}", tip=False))
                parts.append(_text(x + 18, (y + end) / 2, f"{_cut(row.block, 18)}"))
                parts.append(_text(x + 18, (y + end) / 2 + 16, f"{row.times} × alike", "font-weight:600"))
            start = i + 1
    return parts


def _assign_lanes(rows: Sequence[NetworkRow]) -> tuple[dict[tuple[int, int], int], int]:
    """Returns for each connection that is not to the next row a lane that is free along it, and how many there are."""
    wanted = [(source, target) for target, row in enumerate(rows) for source in row.sources if target > source + 1]
    ends: list[list[tuple[int, int]]] = []
    lanes = {}
    for source, target in sorted(wanted, key=lambda each: (each[1] - each[0], each)):
        fits = (n for n, taken in enumerate(ends) if all(target <= a or source >= b for a, b in taken))
        lane = next(fits, len(ends))
        if lane == len(ends):
            ends.append([])
        ends[lane].append((source, target))
        lanes[source, target] = lane
    return lanes, len(ends)


def _colour(groups: Sequence[str], group: str) -> str:
    """Returns a light colour: neighbours along the golden angle differ most."""
    return f"hsl({groups.index(group) * 137.5 % 360:.0f} 62% 84%)" if group else _PLAIN


def _line(path: str, tip: bool = True) -> str:
    end = ' marker-end="url(#tip)"' if tip else ""
    return f'<path d="{path}" fill="none" stroke="{LIGHT["muted"]}" stroke-width="1.3"{end}/>'


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x}" y="{y}" style="{style}" xml:space="preserve">{_escape(text)}</text>' if text else ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _escape(text: str) -> str:
    return html.escape(printable(text))
