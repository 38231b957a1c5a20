"""Paths that a user types: `~` expanded, absolute, and there."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal

Kind = Literal["file", "file or folder"]


def typed(value: Any) -> Any:
    """A path from text, with `~` expanded; anything else as it is, for pydantic to refuse.

    Raises:
        ValueError: the text is empty, or names a user who does not exist.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError("should be a path but is empty")
    try:
        return Path(value).expanduser()
    except RuntimeError as fault:
        raise ValueError(f"{value!r} names no folder: {fault}") from None


def existing(path: Path, kind: Kind) -> Path:
    """The absolute path, if there is such a file.

    Raises:
        ValueError: there is none; the message holds the nearest name in its folder.
    """
    absolute = Path(os.path.abspath(path))
    if kind == "file" and absolute.is_dir():
        raise ValueError(f"{path} is a folder; expected a file")
    if not absolute.exists():
        raise ValueError(f"no such {kind}: {path}{_nearest(absolute)}")
    return absolute


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist"
    try:
        near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1, cutoff=0.6)
    except OSError:  # a folder that may not be listed has no nearest name
        return ""
    return f"; nearest: {path.parent / near[0]}" if near else ""
