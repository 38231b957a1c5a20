"""Finds search spaces: a file of the user's, or one that is shipped."""

from __future__ import annotations

from pathlib import Path

from autoprune.config.documents import Document, read_document
from autoprune.config.paths import existing, typed
from autoprune.errors import did_you_mean

DEFAULT = "filters"


def shipped_spaces() -> list[str]:
    """The names of the search spaces that come with autoprune, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_space(name: str) -> tuple[Document, str]:
    """The document of a search space and what to call it in messages.

    `name` is a path, or a shipped one's name with or without `search_spaces/` and `.yaml`; a file that is there wins.

    Raises:
        ValueError: it is neither.
    """
    path = typed(name)
    if path.is_file():
        return read_document(path), str(path)
    stem = Path(name).stem if Path(name).parent in (Path(), Path("search_spaces")) else ""
    if stem in shipped_spaces() and Path(name).suffix in ("", ".yaml"):
        return read_document(_folder() / f"{stem}.yaml"), f"search_spaces/{stem}.yaml"
    if Path(name).suffix or "/" in name:
        existing(path, "file")
    near, known = did_you_mean(stem, shipped_spaces()), ", ".join(shipped_spaces())
    raise ValueError(f"no such search space: {name!r}{near}; shipped: {known}; or a file")


def _folder() -> Path:
    """In an installed package beside the code; in an editable install the repository's own."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"
