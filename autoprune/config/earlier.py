"""What experiment files of earlier releases say in other words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoprune.config.documents import Document, Keys

_SECTION, _NOW = "finalists", ("search", "rerank")
_MOVED: Mapping[Keys, Keys] = {("count",): ("top",), ("finetune",): ()}
"""Keys of the section that has gone to those of the one that took its place; all others keep their names."""


def in_todays_words(document: Document) -> Document:
    """A file's document with `finalists: {count, reconstruct, finetune: {…}}` as `search.rerank`.

    The places of keys and values go along, so that faults are found where they stand.
    """
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get(_SECTION, 0), (dict, type(None))):
        return document
    search = value.get("search")
    if not (search is None or isinstance(search, dict)) or _NOW[1] in (search or {}):
        return document  # where both are given the old one is a key that is not known
    now = {name: inner for name, inner in value.items() if name != _SECTION}
    now["search"] = {**(search or {}), _NOW[1]: _renamed(value[_SECTION] or {})}
    keys, values = ({_moved(path): place for path, place in old.items()} for old in (document.keys, document.values))
    return replace(document, value=now, keys=keys, values=values)


def _renamed(section: Mapping[str, Any]) -> dict[str, Any]:
    finetune = section.get("finetune")
    renamed = {"top" if name == "count" else name: inner for name, inner in section.items() if name != "finetune"}
    return {**renamed, **finetune} if isinstance(finetune, dict) else renamed


def _moved(path: Keys) -> Keys:
    if path[:1] != (_SECTION,):
        return path
    head, rest = path[1:2], path[2:]
    return (*_NOW, *_MOVED.get(head, head), *rest)
