"""Reads regular files; writes files whole or not at all; tables as CSV."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(fault: OSError) -> bool:
    """Returns whether there was no room to write: on the disk, in the user's quota or under a limit on files."""
    return fault.errno in _FULL


def read_whole(path: Path) -> bytes:
    """Reads a regular file; what could block or never end, a FIFO or a device, is refused.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    file = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        return opened.read()


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: it is none, or nested more deeply than anything that autoprune writes.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def csv_text(headings: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Returns CSV with a line of headings; a cell that is None stays empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headings, *rows])
    return text.getvalue()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Writes a file: a crash or a full disk leaves no half of it, and what was there before stays until then.

    It is on the disk when this returns, so that no record of it outlives it where the power fails.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        _sync(part)
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)
