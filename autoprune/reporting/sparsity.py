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

_Value: TypeAlias = str | int | float | list[int] | None
_HEADINGS = {
    "name": "Name", "shape": "Shape", "nnz_dense": "NNZ (dense)", "nnz_sparse": "NNZ (sparse)", "cols": "Cols (%)",
    "rows": "Rows (%)", "ch": "Ch (%)", "2d": "2D (%)", "3d": "3D (%)", "fine": "Fine (%)", "std": "Std",
    "mean": "Mean", "abs_mean": "Abs-Mean",
}  # fmt: skip


def sparsity_json(table: SparsityTable) -> str:
    """Returns `rows`, and the `total` of columns that have one; fractions in [0, 1], null where there is no value."""
    rows = [_record(row) for row in table.rows]
    return json.dumps({"rows": rows, "total": _total(table)}, indent=1, allow_nan=False) + "\n"


def sparsity_csv(table: SparsityTable) -> str:
    """Returns CSV: one line a tensor and a last one named `total`; fractions in [0, 1], empty where no value."""
    rows = [{**_record(row), "shape": "x".join(map(str, row.shape))} for row in table.rows]
    total = {"name": "total", **_total(table)}
    return csv_text(list(_HEADINGS), ([row.get(key) for key in _HEADINGS] for row in (*rows, total)))


def sparsity_text(table: SparsityTable) -> str:
    """Returns the zoo's text: percentages, five decimals, `-` where there is no value; as wide as its names need."""
    records = (*map(_record, table.rows), {"name": "Total sparsity:", **_total(table)})
    rows = [[_cell(key, record) for key in _HEADINGS] for record in records]
    text = io.StringIO()
    widest = max((len(row.name) + len(str(row.shape)) for row in table.rows), default=0)
    width = 500 + 2 * widest  # letters may be two cells wide
    console = Console(file=text, width=width, color_system=None, markup=False, emoji=False)
    console.print(text_table(list(_HEADINGS.values()), rows, ("Name", "Shape")))
    return text.getvalue()


FORMATS: Mapping[str, Callable[[SparsityTable], str]] = {
    "text": sparsity_text,
    "csv": sparsity_csv,
    "json": sparsity_json,
}


def _record(row: SparsityRow) -> dict[str, _Value]:
    return {
        "name": row.name,
        "shape": list(row.shape),
        "nnz_dense": row.entries,
        "nnz_sparse": row.nonzero,
        "cols": row.zero_columns,
        "rows": row.zero_rows,
        "ch": row.zero_channels,
        "2d": row.zero_kernels,
        "3d": row.zero_filters,
        "fine": row.sparsity,
        "std": row.std,
        "mean": row.mean,
        "abs_mean": row.mean_magnitude,
    }


def _total(table: SparsityTable) -> dict[str, _Value]:
    return {"nnz_dense": table.entries, "nnz_sparse": table.nonzero, "fine": table.sparsity}


def _cell(key: str, record: Mapping[str, _Value]) -> str:
    value = record.get(key)
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{100 * value if _HEADINGS[key].endswith('(%)') else value:.5f}"
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)
