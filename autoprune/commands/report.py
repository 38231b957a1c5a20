"""`autoprune report`."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.commands.options import make_folder
from autoprune.errors import UserError

if TYPE_CHECKING:
    from autoprune.reporting.record import RunRecord

_NAMES = {"table": "report.txt", "json": "report.json", "csv": "trials.csv"}


def run(arguments: argparse.Namespace) -> None:
    """Prints what runs came to, or writes a page about them; reads their ledgers and nothing else."""
    from autoprune.reporting.record import read_record

    records = [read_record(folder) for folder in _different(arguments.folders)]
    if arguments.format == "html":
        _write_page(records, _output_folder(arguments))
        return
    from autoprune.reporting.comparison import comparison_json
    from autoprune.reporting.tables import trials_csv

    text = {"table": _table, "json": comparison_json, "csv": trials_csv}[arguments.format](records)
    if arguments.output is None:
        sys.stdout.write(text)
        return
    from autoprune.files import write_whole

    path = arguments.output / _NAMES[arguments.format]
    make_folder(arguments.output)
    write_whole(path, text.encode())
    print(path)


def _different(folders: Sequence[Path]) -> list[Path]:
    """Returns the folders in order, each once."""
    found: dict[Path, Path] = {}
    for folder in folders:
        if folder.resolve() in found:
            print(f"autoprune: {folder} is named twice and reported once", file=sys.stderr)
        found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _table(records: Sequence[RunRecord]) -> str:
    from autoprune.reporting.tables import LEFT, compared, mixture
    from autoprune.reporting.terminal import plain_console, text_table

    text = io.StringIO()
    console = plain_console(text, 240)
    headings, rows, same = compared(records)
    console.print(text_table(headings, rows, LEFT))
    for note in filter(None, (same, mixture(records))):
        console.print(f"\n{note}")
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def _output_folder(arguments: argparse.Namespace) -> Path:
    """Returns the folder of the page.

    Raises:
        UserError: several runs, and no folder named.
    """
    output: Path | None = arguments.output
    if output is not None:
        return output
    if len(arguments.folders) > 1:
        raise UserError("a page about several runs belongs to none of them; name its folder with --output")
    return Path(arguments.folders[0]) / "report"


def _write_page(records: Sequence[RunRecord], folder: Path) -> None:
    from autoprune.reporting.document import write_page

    make_folder(folder)
    print(write_page(records, folder))
