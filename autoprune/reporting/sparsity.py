"""The sparsity table of a network's weights as text, CSV and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

from rich.console import Console

from autoprune.core.sparsity import SparsityRow, SparsityTable
from autoprune.files import csv_text
from autoprune.reporting.terminal import text_table

_Value: TypeAlias = str | int | float | tuple[int, ...] | None
# Key in CSV and JSON: the zoo's heading, and the attribute of a row.
_COLUMNS = {
    "name": ("Name", "name"),
    "shape": ("Shape", "shape"),
    "nnz_dense": ("NNZ (dense)", "entries"),
    "nnz_sparse": ("NNZ (sparse)", "nonzero"),
    "cols": ("Cols (%)", "zero_columns"),
    "rows": ("Rows (%)", "zero_rows"),
    "ch": ("Ch (%)", "zero_channels"),
    "2d": ("2D (%)", "zero_kernels"),
    "3d": ("3D (%)", "zero_filters"),
    "fine": ("Fine (%)", "sparsity"),
    "std": ("Std", "std"),
    "mean": ("Mean", "mean"),
    "abs_mean": ("Abs-Mean", "mean_magnitude"),
}


def sparsity_json(table: SparsityTable) -> str:
    """Returns `rows`, and the `total` of columns that have one; fractions in [0, 1], null where there is no value."""
    rows = [_record(row) for row in table.rows]
    return json.dumps({"rows": rows, "total": _total(table)}, indent=1, allow_nan=False) + "\n"


def sparsity_csv(table: SparsityTable) -> str:
    """Returns CSV: one line a tensor and a last one named `total`; fractions in [0, 1], empty where no value."""
    rows = [{**_record(row), "shape": "x".join(map(str, row.shape))} for row in table.rows]
    total = {"name": "total", **_total(table)}
    return csv_text(list(_COLUMNS), ([row.get(key) for key in _COLUMNS] for row in (*rows, total)))


def sparsity_text(table: SparsityTable) -> str:
    """Returns the zoo's text: percentages, five decimals, `-` where there is no value; as wide as its names need."""
    records = (*map(_record, table.rows), {"name": "Total sparsity:", **_total(table)})
    headings = [heading for heading, _ in _COLUMNS.values()]
    rows = [[_cell(heading, record.get(key)) for key, (heading, _) in _COLUMNS.items()] for record in records]
    text = io.StringIO()
    widest = max((len(row.name) + len(str(row.shape)) for row in table.rows), default=0)
    width = 500 + 2 * widest  # letters may be two cells wide
    console = Console(file=text, width=width, color_system=None, markup=False, emoji=False)
    console.print(text_table(headings, rows, ("Name", "Shape")))
    return text.getvalue()


FORMATS: Mapping[str, Callable[[SparsityTable], str]] = {
    "text": sparsity_text,
    "csv": sparsity_csv,
    "json": sparsity_json,
}


def _record(row: SparsityRow) -> dict[str, _Value]:
    return {key: getattr(row, attribute) for key, (_, attribute) in _COLUMNS.items()}


def _total(table: SparsityTable) -> dict[str, _Value]:
    return {"nnz_dense": table.entries, "nnz_sparse": table.nonzero, "fine": table.sparsity}


def _cell(heading: str, value: _Value) -> str:
    if isinstance(value, float):
        return f"{100 * value if heading.endswith('(%)') else value:.5f}"
    if isinstance(value, tuple):
        return f"({', '.join(map(str, value))})"
    return "-" if value is None else str(value)
