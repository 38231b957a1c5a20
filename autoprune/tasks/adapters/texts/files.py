"""Texts in files: CSV, TSV or JSON lines with columns of texts and labels, or plain text."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import DataError, did_you_mean
from autoprune.tasks.adapters.parts import find_parts, joined
from autoprune.tasks.base import Split

_TABLES = {".csv": ",;\t|", ".tsv": "\t", ".tab": "\t"}
"""Suffix to the separators that its header may have."""
_JSON = (".jsonl", ".ndjson", ".json")
_MORE = "\0more"
"""The key of fields beyond the header's."""
_TEXT = ("text", "sentence", "content", "document", "review", "comment", "message", "tweet", "body")
_LABEL = ("label", "labels", "class", "category", "target", "sentiment", "y")


@dataclass(frozen=True)
class LabelledText:
    """A text, with the name of its class where it has one, and the line that it ends in."""

    text: str
    label: str
    line: int


def text_parts(data: Path) -> dict[Split, Path]:
    """Returns the file of each part: those of a folder, or the one that is given as `train`.

    Raises:
        DataError: a folder has no file that is called train.
    """
    if not data.is_dir():
        return {"train": data}
    parts = find_parts(data, {path.stem: path for path in sorted(data.iterdir()) if path.is_file()})
    if not parts:
        raise DataError(f"{data} has no train file; expected a file, or a folder with train.csv and validation.csv")
    return parts


def read_labelled(path: Path, text: str | None, label: str | None) -> list[LabelledText]:
    """Returns the labelled texts of a file.

    Args:
        path: of the file; its suffix says what it is.
        text: the column of the texts; None: the first that is called as such columns are.
        label: that of the labels, likewise.

    Raises:
        DataError: it cannot be read, has no such columns or lines, or a line lacks something.
    """
    names, rows = _table(path)
    columns = [_column(path, names, *wanted) for wanted in (("text", text, _TEXT), ("label", label, _LABEL))]
    found, faults = [], []
    for line, row in rows:
        values = [_plain(row.get(column)) for column in columns]
        faults += [f"{path}:{line}: {name} is empty" for name, value in zip(columns, values, strict=True) if not value]
        found.append(LabelledText(values[0], values[1], line))
    if faults:
        raise DataError(joined(faults))
    if not found:
        raise DataError(f"{path} has no lines of texts")
    return found


def read_documents(path: Path, text: str | None) -> list[str]:
    """Returns the texts of a file: those of its column of texts, or of plain text the whole.

    Args:
        path: of the file.
        text: the column; None: the first that is called as such columns are.

    Raises:
        DataError: it cannot be read, has no such column, or no text.
    """
    if path.suffix.lower() in (*_TABLES, *_JSON):
        names, rows = _table(path)
        column = _column(path, names, "text", text, _TEXT)
        found = [value for _, row in rows if (value := _plain(row.get(column)))]
    else:
        found = [_read(path)]
    if not any(each.strip() for each in found):
        raise DataError(f"{path} has no text")
    return found


Rows = Iterator[tuple[int, Mapping[str, Any]]]
"""The line that a row ends in, and its values by column."""


def _table(path: Path) -> tuple[Sequence[str], Rows]:
    """Returns the names of a file's columns and its rows.

    Raises:
        DataError: it is no table, has no lines, or a line cannot be read.
    """
    suffix, text = path.suffix.lower(), _read(path)
    if suffix not in (*_TABLES, *_JSON):
        raise DataError(f"{path} should be a .csv, .tsv or .jsonl file with columns of texts and labels")
    if not text.strip():
        raise DataError(f"{path} has no lines")
    return _json_rows(path, text) if suffix in _JSON else _separated_rows(path, text)


def _read(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path} should be a file, but there is {'a folder' if path.is_dir() else 'none'}")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataError(f"{path} is no text in UTF-8 ({fault.reason} at byte {fault.start}); convert it") from fault
    except OSError as fault:
        raise DataError(f"{path} cannot be read: {fault.strerror}") from fault


def _separated_rows(path: Path, text: str) -> tuple[Sequence[str], Rows]:
    header = text.lstrip("\r\n").partition("\n")[0]
    separator = max(_TABLES[path.suffix.lower()], key=header.count)
    try:
        rows = list(_parsed(path, text, separator, csv.QUOTE_MINIMAL))
    except DataError:
        if separator != "\t":
            raise
        rows = list(_parsed(path, text, separator, csv.QUOTE_NONE))  # a text may begin with a quotation mark there
    return list(rows[0][1]) if rows else header.strip().split(separator), iter(rows)


def _parsed(path: Path, text: str, separator: str, quoting: Any) -> Rows:
    longest = csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True, restkey=_MORE
    )
    try:
        for row in reader:
            if _MORE in row:
                raise DataError(
                    f"{path}:{reader.line_num} has more fields than the header; texts with {separator!r} in them need "
                    "quotation marks"
                )
            yield reader.line_num, row
    except csv.Error as fault:
        raise DataError(f"{path}:{reader.line_num} cannot be read: {fault}") from fault
    finally:
        csv.field_size_limit(longest)


def _json_rows(path: Path, text: str) -> tuple[Sequence[str], Rows]:
    if text.lstrip().startswith("["):  # one list of all
        rows = list(enumerate(_json(text, f"{path}"), start=1))
    else:
        lines = enumerate(text.split("\n"), start=1)
        rows = [(number, _json(line, f"{path}:{number}")) for number, line in lines if line.strip()]
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number} should be an object {{...}} but is a {type(row).__name__}")
    return list(dict.fromkeys(name for _, row in rows for name in row)), iter(rows)


def _json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{source} is no JSON: {fault}") from fault


def _column(path: Path, names: Sequence[str], kind: str, wanted: str | None, usual: Sequence[str]) -> str:
    """Returns the name of a column.

    Args:
        path: of the file.
        names: of its columns.
        kind: of the column, the option that names it.
        wanted: what that option says; None: nothing.
        usual: what such columns are called, the first wins.

    Raises:
        DataError: there is none.
    """
    if wanted is not None and wanted not in names:
        raise DataError(f"{path} has no column {wanted!r}{did_you_mean(wanted, names)}; it has {', '.join(names)}")
    lower = {name.strip().lower(): name for name in reversed(names)}
    found = wanted or next((lower[name] for name in usual if name in lower), None)
    if found is None:
        raise DataError(
            f"{path} has no column of {kind}s that is found ({', '.join(names)}); call it {usual[0]!r}, or say "
            f"--set task.options.{kind}=NAME"
        )
    return found


def _plain(value: Any) -> str:
    """Returns a value of a row as text; empty where there is none."""
    if value is None or isinstance(value, (dict, list)):
        return ""
    return value.strip() if isinstance(value, str) else str(value)
