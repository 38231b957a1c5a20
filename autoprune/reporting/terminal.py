"""Text for the terminal: what users name is printed as it is, never read as markup or as a control sequence."""

from __future__ import annotations

import sys
from typing import IO

from rich.console import Console

_PIPED_WIDTH = 140
"""Columns of a table where standard output is no terminal."""


def plain_console(file: IO[str] | None = None, width: int | None = None, stderr: bool = False) -> Console:
    """Returns a console that reads no markup, emoji or links in what is printed.

    Args:
        file: where it prints; None is standard output, or standard error if `stderr`.
        width: in columns; None is the terminal's, or as much as a table needs where there is none.
    """
    if width is None and file is None and not stderr and not sys.stdout.isatty():
        width = _PIPED_WIDTH
    return Console(file=file, width=width, stderr=stderr, markup=False, emoji=False, highlight=False)
