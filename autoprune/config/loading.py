"""Joins a file, options and `--set` into one experiment, and reports every fault of all of them at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from autoprune.config.credentials import mask
from autoprune.config.documents import FLOAT, Document, Keys, existing, parse_document, parse_path, read_document
from autoprune.config.experiment import Experiment
from autoprune.config.messages import fields_of, section_in, shown, validated
from autoprune.config.sections import SpaceSection
from autoprune.config.settings import RANGE_KEYS
from autoprune.core.settings import CRITERION
from autoprune.errors import did_you_mean

DEFAULT = "filters"


def shipped_spaces() -> list[str]:
    """Returns the names of the search spaces that come with autoprune, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_space(name: str) -> tuple[Document, str]:
    """Returns the document of a search space and what to call it in messages.

    `name` is a path, or a shipped one's name with or without `search_spaces/` and `.yaml`; a file that is there wins.

    Raises:
        ValueError: it is neither.
    """
    path = parse_path(name)
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
    """Returns the folder of search spaces: the package's if installed, the repository's in an editable install."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


OPTIONS = {
    "search.searcher": "--searcher",
    "search.trials": "--trials",
    "search.evaluations": "--evaluations",
    "search.seed": "--seed",
    "task.name": "--task",
    "task.model": "--model",
    "task.checkpoint": "--checkpoint",
    "task.data": "--data",
    "run.device": "--device",
    "track.uri": "--tracking-uri",
    "space": "--space",
    "pruner": "--pruner",
    "budget": "--budget",
    "output": "--output",
}
"""Settings with an option of their own."""


def load_experiment(
    file: Path | None = None, overrides: Mapping[str, Any] | None = None, sets: Sequence[str] = ()
) -> Experiment:
    """Returns the experiment that a file and options describe, complete with defaults.

    Args:
        file: YAML; None for defaults alone.
        overrides: dotted key to value (`{"search.trials": 60}`), as options give them; None is an option not given.
        sets: texts `key=value`, the value being YAML; they win over options, options over the file.

    Raises:
        ConfigError: something is wrong; every fault is listed with its place.
    """
    draft = _Draft()
    if file is not None:
        draft.put_document(read_document(file), (), 0, str(file))
    for key, value in (overrides or {}).items():
        if value is not None:
            draft.put_value(_split(key), value, OPTIONS.get(key, key))
    pairs = [pair for text in sets if (pair := draft.parse_set(text))]
    for into_space in (False, True):  # a search space is read before single keys of it are set
        if into_space:
            draft.read_space()
        for keys, value in pairs:
            if (keys[0] == "space" and len(keys) > 1) is into_space:
                draft.put_value(keys, value, f"--set {'.'.join(map(str, keys))}")
    return validated(Experiment, _without_empty_sections(draft.tree, Experiment), draft.position, draft.faults)


@dataclass(frozen=True)
class _Origin:
    """Where a value comes from: what to print for a fault in its key and in itself, and how many keys that says."""

    key: str
    value: str
    said: int


@dataclass
class _Draft:
    """Plain values on their way to an experiment, each with its origin."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Keys, _Origin] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def put_document(self, document: Document, below: Keys, said: int, source: str) -> None:
        """Puts a document's mapping at a place of the tree.

        Args:
            document: what is wrong with it is noted.
            below: the keys of the place.
            said: how many keys the places in the document say.
            source: what to call the document where it says no place.
        """
        self.faults += document.faults
        value = {} if document.value is None else document.value
        if not isinstance(value, dict):
            where, known = document.values[()], ", ".join(fields_of(SpaceSection if below else Experiment))
            self.faults.append(f"{where}: should be a mapping (key: value) but is {shown(value)}; keys: {known}")
            value = {}
        self._forget(below)
        if below:
            self.tree[str(below[0])] = value
        else:
            self.tree = value
        self.origins[below] = _Origin(source, source, said)
        for path, place in document.keys.items():
            if path:
                self.origins[(*below, *path)] = _Origin(place, document.values[path], said)

    def put_value(self, keys: Keys, value: Any, label: str) -> None:
        """Sets one value, whatever was there before."""
        node = self.tree
        for depth, key in enumerate(keys[:-1], start=1):
            inner = node.get(str(key))
            if inner is None:
                inner = node[str(key)] = {}
            if not isinstance(inner, dict):
                above = ".".join(map(str, keys[:depth]))
                self.faults.append(f"{label}: {above} is {shown(inner)}, which has no keys; set {above} as a whole")
                return
            node = inner
        self._forget(keys)
        node[str(keys[-1])] = value
        self.origins[keys] = _Origin(label, label, len(keys))

    def _forget(self, keys: Keys) -> None:
        self.origins = {path: origin for path, origin in self.origins.items() if path[: len(keys)] != keys}

    def parse_set(self, text: str) -> tuple[Keys, Any] | None:
        """Returns keys and value of `key=value`, or None after noting a fault."""
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            self.faults.append(f"--set {text}: should read KEY=VALUE, for example --set evaluation.samples=1000")
            return None
        document = parse_document(value, lambda _: f"--set {key}")
        self.faults += document.faults
        return None if document.faults else (_split(key), document.value)

    def read_space(self) -> None:
        """Replaces the name of a search space by what its file says."""
        name = DEFAULT if self.tree.get("space") is None else self.tree["space"]
        if isinstance(name, dict):
            return
        try:
            if not isinstance(name, (str, Path)):
                raise ValueError(f"should be a file, a shipped name or a mapping but is {shown(name)}")
            document, source = read_space(str(name))
        except ValueError as fault:
            self.faults.append(f"{self.position(('space',))}: {fault}")
            self.tree["space"] = {}
            return
        self.put_document(document, ("space",), 1, source)
        self.tree["space"].setdefault("source", source)

    def position(self, keys: Keys, in_key: bool = False) -> str:
        """Returns what stands before a fault: where its value (or key) comes from, and the keys that this says not."""
        origin = self._origin(keys)
        label, rest = origin.key if in_key else origin.value, ".".join(map(str, keys[origin.said :]))
        return f"{label}: {rest}" if rest else label

    def _origin(self, keys: Keys) -> _Origin:
        """Returns where a value comes from: it, else (a section made by options) something in it, else around it."""
        inside = [path for path in self.origins if path[: len(keys)] == keys]
        around = [keys[:n] for n in range(len(keys) - 1, -1, -1) if keys[:n] in self.origins]
        nearest = [keys] if keys in self.origins else inside + around
        return self.origins[nearest[0]] if nearest else _Origin("experiment", "experiment", 0)


def _split(key: str) -> Keys:
    """Splits a dotted key; the pattern in `space.groups.PATTERN.KEY` and `space.settings.NAME` may hold dots."""
    parts = key.split(".")
    if parts[:2] == ["space", "groups"] and len(parts) > 4:
        return ("space", "groups", ".".join(parts[2:-1]), parts[-1])
    if parts[:2] == ["space", "settings"] and len(parts) > 3:
        inner = len(parts) - (parts[-1] in RANGE_KEYS and parts[2] != CRITERION)
        return ("space", "settings", ".".join(parts[2:inner]), *parts[inner:])
    return tuple(parts)


def _without_empty_sections(tree: Mapping[str, Any], section: type) -> dict[str, Any]:
    """Returns the tree without sections left empty (`search:` with nothing below it), which mean their defaults."""
    kept = dict(tree)
    for name, inner in fields_of(section).items():
        if isinstance(inner, type) and section_in(inner) and name in kept:
            if kept[name] is None:
                del kept[name]
            elif isinstance(kept[name], dict):
                kept[name] = _without_empty_sections(kept[name], inner)
    return kept


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or our own reader would take for a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{FLOAT.pattern})\\Z"), list("-+.0123456789"))


def dump_experiment(experiment: Experiment) -> str:
    """Returns every setting as YAML, the search space inlined, that loads back to an equal experiment.

    Credentials in the tracking URI are the exception: they are never written, and `Experiment.tracking_uri` asks for
    them again.
    """
    settings = experiment.model_dump(mode="json")
    if experiment.track.uri is not None:
        settings["track"]["uri"] = mask(experiment.track.uri)
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
