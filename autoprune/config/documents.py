"""Reads YAML and remembers where each key and value stands."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from autoprune.files import read_whole

Kind = Literal["file", "file or folder"]

_LONGEST_NAME, _LONGEST_PATH = 255, 4095
"""Bytes of a name, and of a path, in any usual file system."""
_MOST_NODES = 100_000
"""Values of a document, with each alias counted as often as it stands there; no experiment has as many."""


def parse_path(value: Any) -> Any:
    """Returns a path from text, with `~` expanded; anything else as it is, for pydantic to refuse.

    Raises:
        ValueError: the text is empty, or names a user who does not exist.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise ValueError("should be a path but is empty")
    too_long = any(len(os.fsencode(part)) > _LONGEST_NAME for part in value.split("/"))
    if "\0" in value or too_long or len(os.path.abspath(value)) > _LONGEST_PATH:
        raise ValueError("should be a path but no file can have this name")
    try:
        return Path(value).expanduser()
    except RuntimeError as fault:
        raise ValueError(f"{value!r} names no folder: {fault}") from None


def existing(path: Path, kind: Kind) -> Path:
    """Returns the absolute path, if there is such a file.

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


Keys = tuple[str | int, ...]
Where = Callable[[yaml.Mark | None], str]

_MERGE = "tag:yaml.org,2002:merge"

FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN)"
)

# What the scanner says, and what it means to a reader who does not know YAML's grammar.
_PLAIN_WORDS = (
    ("mapping values are not allowed", "a ':' that cannot stand here: wrong indentation, or a text needs quotes"),
    ("found character '\\t'", "a tab; indent with spaces"),
    ("expected <block end>", "wrong indentation: keys of one mapping begin in the same column"),
    ("could not find expected ':'", "a key without ':' (is it indented wrongly, or does a text need quotes?)"),
    ("unindent does not match", "wrong indentation"),
    ("found unexpected end of stream", "a quote that is never closed"),
    ("expected the node content", "a value that is missing, or a '{' or '[' that is never closed"),
    ("expected ',' or", "a '{' or '[' that is never closed, or a ',' that is missing"),
    ("found undefined alias", "a text that begins with '*' needs quotes"),
    ("expected alphabetic or numeric character", "a text that begins with '*' or '&' needs quotes"),
    ("could not determine a constructor", "a tag ('!…'), which autoprune does not read"),
    ("but found another document", "a second document ('---'); an experiment is one"),
)


class Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `1e-3` is a number; `yes`, `010`, `1:30` and dates are text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as in the base class


def _resolve(tag: str, pattern: str, first: Sequence[str]) -> None:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})\\Z"), list(first))


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("int", "[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789")
_resolve("float", FLOAT.pattern, "-+.0123456789")
_resolve("null", "~|null|Null|NULL|", [*"~nN", ""])
_resolve("merge", "<<", "<")


@dataclass(frozen=True)
class Document:
    """Plain values with the place of each, and what is wrong with the document itself.

    Attributes:
        keys, values: the path of keys to a value, and `file:line:column` where its last key, or it itself, stands.
    """

    value: Any = None
    keys: Mapping[Keys, str] = field(default_factory=dict)
    values: Mapping[Keys, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    def position(self, keys: Keys, in_key: bool = False) -> str:
        """Returns where a value (or its key) stands, or what is around it."""
        places = self.keys if in_key else self.values
        return next(places[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in places)


def read_document(path: Path) -> Document:
    """Returns a file's YAML; a file that cannot be read is a document with a fault."""
    try:
        text = read_whole(existing(path, "file")).decode()
    except UnicodeDecodeError as fault:
        return Document(faults=(f"{path}: is no text in UTF-8 ({fault.reason} at byte {fault.start})",))
    except OSError as fault:
        return Document(faults=(f"{path}: cannot be read: {fault.strerror}",))
    except ValueError as fault:
        return Document(faults=(str(fault),))
    return parse_document(text, in_file(path))


def in_file(path: Path) -> Where:
    """Names places of a file as `file:line:column`, both counted from 1."""
    return lambda mark: f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)


def parse_document(text: str, where: Where) -> Document:
    """Returns text as YAML; keys are always text, as a layer may be called `0.1`."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(values={(): where(None)})
        if _count(node, {}) > _MOST_NODES:
            return Document(faults=(f"{where(None)}: stands for more than {_MOST_NODES:,} values",))
        broken = tuple(_unreadable(node, where))
        if broken:
            return Document(faults=broken)
        twice = tuple(_given_twice(node, where))
        value = loader.construct_document(node)
    except yaml.MarkedYAMLError as fault:
        return Document(faults=(_syntax_fault(fault, where),))
    except yaml.YAMLError as fault:
        return Document(faults=(f"{where(None)}: {' '.join(str(fault).split())}",))
    except RecursionError:
        return Document(faults=(f"{where(None)}: is nested too deeply",))
    except ValueError as fault:  # a number of thousands of digits
        return Document(faults=(f"{where(None)}: {fault}",))
    keys: dict[Keys, str] = {}
    values: dict[Keys, str] = {}
    for path, key, inner in _walk((), node, node):
        keys[path], values[path] = where(key.start_mark), where(inner.start_mark)
    return Document(value, keys, values, twice)


def _syntax_fault(fault: yaml.MarkedYAMLError, where: Where) -> str:
    said = fault.problem or fault.context or "not YAML"
    plain = next((words for found, words in _PLAIN_WORDS if found in said), said)
    place = where(fault.problem_mark or fault.context_mark)
    return f"{place}: {plain}" + ("" if plain == said else f" [{said}]")


def _unreadable(node: yaml.Node, where: Where, above: tuple[int, ...] = ()) -> Iterator[str]:
    """Yields keys that are no text and values that hold themselves; makes every other key text."""
    if id(node) in above:
        yield f"{where(node.start_mark)}: holds itself (an alias to what is around it)"
        return
    for key in _key_nodes(node):
        if not isinstance(key, yaml.ScalarNode):
            yield f"{where(key.start_mark)}: a key should be text, not a list or mapping"
        elif key.tag != _MERGE:
            key.tag = "tag:yaml.org,2002:str"
    for inner in _inner(node):
        yield from _unreadable(inner, where, (*above, id(node)))


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Returns how many values a node holds once its aliases are followed; `known` remembers nodes that were counted."""
    if id(node) not in known:
        known[id(node)] = 0  # one that holds itself is refused elsewhere
        known[id(node)] = 1 + sum(_count(inner, known) for inner in _inner(node))
    return known[id(node)]


def _given_twice(node: yaml.Node, where: Where) -> Iterator[str]:
    first: dict[str, int] = {}
    for key in _key_nodes(node):
        if key.value in first and key.tag != _MERGE:
            yield f"{where(key.start_mark)}: {key.value!r} is given twice (first in line {first[key.value]})"
        first.setdefault(key.value, key.start_mark.line + 1)
    for inner in _inner(node):
        yield from _given_twice(inner, where)


def _key_nodes(node: yaml.Node) -> list[yaml.Node]:
    return [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _walk(path: Keys, key: yaml.Node, node: yaml.Node) -> Iterator[tuple[Keys, yaml.Node, yaml.Node]]:
    """Yields path, key and value of a node and all below it; it was constructed, so that merge keys are resolved."""
    yield path, key, node
    if isinstance(node, yaml.MappingNode):
        for inner_key, value in node.value:
            yield from _walk((*path, inner_key.value), inner_key, value)
    elif isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield from _walk((*path, place), value, value)
