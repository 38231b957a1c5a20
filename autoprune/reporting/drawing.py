"""Figures that stand in a page, in its own colours, and as PNG beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.files import write_whole

if TYPE_CHECKING:
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
def styled() -> Iterator[None]:
    """Figures made in here have our colours and sizes."""
    import matplotlib

    ink = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
    style: dict[Any, Any] = {
        **dict.fromkeys(ink, LIGHT["ink"]),
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


def panel(width: float = _WIDTH, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def png(figure: Figure, path: Path) -> None:
    """Writes a figure on white.

    Raises:
        OSError: it cannot be written.
    """
    content = io.BytesIO()
    with styled():
        figure.savefig(content, format="png", dpi=150, facecolor="white")
    write_whole(path, content.getvalue())


def svg(figure: Figure, title: str) -> str:
    """A figure as an element of a page: transparent, in the page's colours and fonts, as wide as its place."""
    content = io.StringIO()
    with styled():
        figure.savefig(content, format="svg", transparent=True)
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"|<svg ', _opening(title), text, count=1)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"'?DejaVu Sans'?[^;\"]*", _FONTS, text)
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return text.strip()


def _opening(title: str) -> str:
    quoted = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg role="img" aria-label="{quoted}" '


def label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def log_scale(axes: Axes) -> None:
    """A logarithmic axis whose ticks read 0.5, 1, 2."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
