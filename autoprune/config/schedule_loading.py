"""From a schedule file to a checked schedule, or a list of every fault with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from autoprune.config.documents import Document, Keys, read_document
from autoprune.config.messages import explain, shown
from autoprune.config.schedule import ScheduleFile
from autoprune.errors import ConfigError, did_you_mean


def load_schedule(path: Path) -> ScheduleFile:
    """The schedule in a YAML file.

    Raises:
        ConfigError: something is wrong; every fault is listed with its place.
    """
    document = read_document(path)
    faults = list(document.faults)
    if not faults and not isinstance(document.value, dict):
        known = ", ".join(ScheduleFile.model_fields)
        faults.append(f"{path}: should be a mapping (key: value) but is {shown(document.value)}; keys: {known}")
    if faults:
        raise ConfigError(faults)
    try:
        schedule = ScheduleFile.model_validate(document.value)
    except ValidationError as invalid:
        raise ConfigError([_fault(document, path, error) for error in invalid.errors(include_url=False)]) from None
    faults = [f"{_place(document, keys, path)}: {message}" for keys, message in _contradictions(schedule)]
    if faults:
        raise ConfigError(faults)
    return schedule


def _fault(document: Document, path: Path, error: ErrorDetails) -> str:
    keys = tuple(key for key in error["loc"] if not _is_choice(key))
    place = _place(document, keys, path, in_key=error["type"] == "extra_forbidden")
    plain: ErrorDetails = {**error, "loc": keys}
    return f"{place}: {'.'.join(map(str, keys))}: {explain(plain, ScheduleFile)}"


def _is_choice(key: str | int) -> bool:
    """Whether a part of a fault's place names one of several types that a value may have, as pydantic writes it."""
    return isinstance(key, str) and ("[" in key or key in ("float", "int", "literal", "constrained-float"))


def _place(document: Document, keys: Keys, path: Path, in_key: bool = False) -> str:
    """Where a value, or what is around it, stands."""
    places = document.keys if in_key else document.values
    return next((places[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in places), str(path))


def _contradictions(schedule: ScheduleFile) -> Iterator[tuple[Keys, str]]:
    yield from _unknown_subjects(schedule)
    used = [policy.pruner for policy in schedule.policies]
    for name in schedule.pruners:
        policies = used.count(name)
        if schedule.rounds is None and policies != 1:
            yield ("pruners", name), f"pruner {name!r} should be in one policy, which says when, but is in {policies}"
    if schedule.rounds is not None:
        yield from _rounds_with_others(schedule)
    length = schedule.train.epochs, schedule.train.steps
    for index, policy in enumerate(schedule.policies):
        start, end, _, unit = policy.timing()
        limit = length[0] if unit == "epoch" else length[1]
        if limit is not None and max(start, end or 0) > limit:
            yield ("policies", index), f"reaches to {unit} {max(start, end or 0)}, but training ends after {limit:g}"


def _unknown_subjects(schedule: ScheduleFile) -> Iterator[tuple[Keys, str]]:
    known: Mapping[str, Mapping[str, Any]] = {
        "pruner": schedule.pruners,
        "penalty": schedule.penalties,
        "remove_layers": schedule.penalties,
    }
    for index, policy in enumerate(schedule.policies):
        for field, names in known.items():
            name = getattr(policy, field)
            if name is not None and name not in names:
                where = "pruners" if field == "pruner" else "penalties"
                listed = ", ".join(names) or "none"
                message = f"{name!r} is not among the {where} ({listed}){did_you_mean(name, names)}"
                yield ("policies", index, field), message


def _rounds_with_others(schedule: ScheduleFile) -> Iterator[tuple[Keys, str]]:
    if len(schedule.pruners) != 1:
        yield ("rounds",), f"rounds are of one pruner, but there are {len(schedule.pruners)}"
    for index, policy in enumerate(schedule.policies):
        if policy.penalty is None:
            yield ("policies", index), "with rounds the pruner prunes between them, and nothing is thinned or removed"
