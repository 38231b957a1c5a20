"""The style of all figures, and their files: SVG inside a page, in its colours, and PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import printable
from autoprune.files import write_whole

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT: Mapping[str, str] = {
    "ink": "#24292f", "muted": "#6a737d", "grid": "#d8dee4", "trial": "#5b8dbe", "best": "#c8321f",
    "uniform": "#d9822b", "dense": "#3a3f45", "frontier": "#1b7f4b", "limit": "#8c959f", "whole": "#e3e7ec",
}  # fmt: skip
"""Colours by what they stand for. In a page each is a variable of the style sheet, so that a dark page has its own."""
DARK: Mapping[str, str] = {
    "ink": "#e6e8eb", "muted": "#9aa4af", "grid": "#343b44", "trial": "#6fa3d8", "best": "#ff7b6b",
    "uniform": "#f0a45c", "dense": "#d0d6dd", "frontier": "#4cc38a", "limit": "#8b949e", "whole": "#3a424c",
}  # fmt: skip
SERIES = ("#3b76af", "#c8602a", "#2e8b57", "#9b59b6", "#b8860b", "#c0397a", "#4aa3a3", "#7f7f7f")
"""Colours of runs, readable on light and on dark."""
_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_WIDTH, _HEIGHT = 5.4, 3.9


@contextmanager
def panels(
    count: int = 1, width: float | None = None, height: float = _HEIGHT
) -> Iterator[tuple[Figure, tuple[Axes, ...]]]:
    """Gives a figure with `count` pairs of axes side by side; our colours and sizes hold while it is drawn.

    Args:
        count: pairs of axes.
        width: of the figure in inches; None gives each pair the usual width.
        height: of the figure in inches.
    """
    from matplotlib.figure import Figure  # takes half a second to import

    with _styled():
        figure = Figure(figsize=(width or _WIDTH * count, height), layout="constrained")
        yield figure, tuple(figure.subplots(1, count, squeeze=False)[0])


@contextmanager
def _styled() -> Iterator[None]:
    """Sets our colours and sizes; names of runs, groups and modules are text, whatever signs are in them."""
    import matplotlib

    ink = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {
        **dict.fromkeys(ink, LIGHT["ink"]),
        "text.parse_math": False,
        "axes.edgecolor": LIGHT["muted"],
        "grid.color": LIGHT["grid"],
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "autoprune",
    }
    with matplotlib.rc_context(style):
        yield


def png(figure: Figure, path: Path) -> None:
    """Writes a figure on white.

    Raises:
        OSError: it cannot be written.
    """
    content = io.BytesIO()
    with _styled():
        figure.savefig(content, format="png", dpi=150, facecolor="white")
    write_whole(path, content.getvalue())


def svg(figure: Figure, title: str) -> str:
    """Returns a figure as an element of a page: transparent, in the page's colours and fonts, as wide as its place."""
    content = io.StringIO()
    with _styled():
        figure.savefig(content, format="svg", transparent=True)
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    quoted = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    opening = f'<svg role="img" aria-label="{quoted}" '
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg ', opening, text, count=1)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return re.sub(r'(?<=style=")[^"]*', _page_style, text).strip()


def _page_style(style: re.Match[str]) -> str:
    """Replaces fonts and colours of one style by the page's; text that looks like a colour is none."""
    text = re.sub(r"'?DejaVu Sans'?[^;]*", _FONTS, style[0])
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def legend(figure: Figure, columns: int = 6, side: bool = False) -> None:
    """Adds one legend for all axes of a figure, above them or at their right, where it hides nothing.

    Args:
        figure: with artists that have labels; of several with one label the first stands for all.
        columns: in how many columns the labels stand above the axes.
        side: whether it stands at the right, in one column.
    """
    found: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, texts = axes.get_legend_handles_labels()
        for text, handle in zip(texts, handles, strict=True):
            found.setdefault(text, handle)
    if found:
        where, columns = ("outside right upper", 1) if side else ("outside upper left", columns)
        style: dict[str, Any] = {"loc": where, "ncols": columns, "handlelength": 1.5, "columnspacing": 1.2}
        figure.legend(list(found.values()), list(found), **style)


def name_text(name: str) -> str:
    """Returns the name of a run or group as a label; matplotlib hides labels that begin with an underscore."""
    text = printable(name).replace("\n", r"\n")
    return f"\N{ZERO WIDTH SPACE}{text}" if text.startswith("_") else text


def shade(i: int, count: int) -> str:
    """Returns one of `count` colours that read on light and on dark: of a few distinct ones, of more along a scale."""
    if count <= len(SERIES):
        return SERIES[i]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return str(to_hex(colormaps["turbo"](0.08 + 0.84 * i / max(count - 1, 1))))


def log_scale(axes: Axes) -> None:
    """Makes the vertical axis logarithmic, with ticks that read 0.5, 1, 2."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
