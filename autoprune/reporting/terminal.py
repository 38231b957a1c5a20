"""Text for the terminal: what users name is printed as it is, never read as markup or as a control sequence."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import IO

from rich.console import Console
from rich.table import Table

from autoprune.errors import printable

_PIPED_WIDTH = 140
"""Columns of a table where standard output is no terminal."""


def plain_console(file: IO[str] | None = None, width: int | None = None, stderr: bool = False) -> Console:
    """Returns a console that reads no markup, emoji or links in what is printed.

    Args:
        file: where it prints; None is standard output, or standard error if `stderr`.
        width: in columns; None is the terminal's, or as much as a table needs where there is none.
        stderr: see `file`.
    """
    if width is None and file is None and not stderr and not sys.stdout.isatty():
        width = _PIPED_WIDTH
    return Console(
        file=file,
        width=width,
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        force_jupyter=False,
        force_terminal=None if file is None else False,  # a text has no control sequences, whatever FORCE_COLOR says
    )


def text_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[str], marked: Collection[int] = ()
) -> Table:
    """Returns a table without lines, to be printed on a `plain_console`; no cell is wrapped.

    Args:
        headings: one a column.
        rows: a cell for each heading.
        words: the headings of words, flush left; all others are of numbers, flush right.
        marked: indices of the rows in bold.
    """
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=True)
    for i, row in enumerate(rows):
        table.add_row(*map(printable, row), style="bold" if i in marked else None)
    return table
