"""Reads the dimensions that a search space names beside the widths, and says what is wrong with each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from autoprune import registry
from autoprune.core.fields import (
    Above0,
    Fault,
    FieldError,
    Positive,
    declarations,
    fault,
    is_whole,
    required,
    set_fields,
)
from autoprune.core.recipe import Finetune, Recipe
from autoprune.core.settings import CRITERION, FINETUNE, Choice, Combination, Dimension, Range, criterion_pattern
from autoprune.core.trial import Setting
from autoprune.errors import UnknownName, did_you_mean

MOST_COUNTS = 16
"""So many values at most has a dimension that counts samples: those of each value stay in memory."""
RANGE_KEYS = ("low", "high", "log", "step")

_TRAINING = ("rate", "steps", "distill", "temperature", "weight_decay", "momentum")
_COUNTS = ("recalibrate", "reconstruct")
"""The settings that count samples."""
NUMBERS: Mapping[str, Any] = {
    **{f"{FINETUNE}{name}": required(declarations(Finetune)[name]) for name in _TRAINING},
    **{name: declarations(Recipe)[name] for name in _COUNTS},
}
"""The settings that are numbers, and the declared type of each."""
_CHOICES: Mapping[str, Any] = {"normalise": bool, "combine": Combination}
_KNOWN = (CRITERION, *_CHOICES, *NUMBERS)


def _criterion_fault(value: Any) -> str:
    if not isinstance(value, str):
        return f"should be the name of a criterion but is {value!r}"
    try:
        registry.check("criterion", value)
    except UnknownName as unknown:
        return str(unknown)
    return ""


def read_settings(given: Any) -> dict[str, Dimension]:
    """Returns the dimensions that `space.settings` names; a list is a choice, a mapping with `low` and `high` a range.

    Raises:
        ValueError: it is no mapping.
        FieldError: with every fault of every dimension.
    """
    if not isinstance(given, Mapping):
        raise ValueError("should be a mapping of names to lists or to {low, high}, such as {criterion: [l1, l2]}")
    faults = [((name, *keys), said) for name, value in given.items() for keys, said in _faults(name, value)]
    if faults:
        raise FieldError(faults)
    return {name: _dimension(name, value) for name, value in given.items()}


def _faults(name: str, value: Any) -> Iterator[Fault]:
    numbers, scored = NUMBERS.get(name), name == CRITERION or criterion_pattern(name) is not None
    if isinstance(value, (Choice, Range)):
        return
    if name not in _KNOWN and not scored:
        known = ", ".join((CRITERION, *_CHOICES, "criterion.GROUP_PATTERN", *NUMBERS))
        yield (), f"unknown setting{did_you_mean(name, _KNOWN) or f'; known: {known}'}"
    elif isinstance(value, Mapping) and numbers is not None:
        yield from _range_faults(name, value)
    elif isinstance(value, (list, tuple)):
        declared = _CHOICES.get(name, numbers)
        yield from _choice_faults(_criterion_fault if scored else partial(fault, declared), value)
        if name in _COUNTS and len(value) > MOST_COUNTS:
            yield (), _too_many(len(value))
    else:
        ways = "a list of values, or {low: …, high: …}" if numbers else "a list of values"
        yield (), f"should be {ways}; a single value is no search: give it in the experiment instead"


def _choice_faults(fault_of: Callable[[Any], str], values: Sequence[Any]) -> Iterator[Fault]:
    for value in values:
        if said := fault_of(value):
            yield (), said
    if len(values) < 2:
        yield (), f"has {len(values)} value: give two or more, or set it in the experiment instead"
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        yield (), f"has {twice[0]!r} twice"


def _range_faults(name: str, given: Mapping[str, Any]) -> Iterator[Fault]:
    number = NUMBERS[name]
    kinds = {"low": number, "high": number, "log": bool, "step": Positive if is_whole(number) else Above0}
    yield from (((key,), f"unknown key{did_you_mean(str(key), RANGE_KEYS)}") for key in given if key not in kinds)
    stated = {key: value for key, value in given.items() if key in kinds and (key, value) != ("step", None)}
    faults = {key: fault(kinds[key], value) for key, value in stated.items()}
    faults |= {key: "is needed but not given" for key in ("low", "high") if key not in given}
    yield from (((key,), said) for key, said in faults.items() if said)
    if not any(faults.get(key) for key in ("low", "high", "step")):
        yield from _order_faults(name, given)


def _order_faults(name: str, given: Mapping[str, Any]) -> Iterator[Fault]:
    """Yields what is wrong with a range whose parts are right, each by itself."""
    low, high, log, step = given["low"], given["high"], given.get("log"), given.get("step")
    if low >= high:
        yield (), f"low {low} should be below high {high}"
        return
    if log and low <= 0:
        yield ("low",), f"should be above 0 on a logarithmic scale but is {low}"
    if log and step is not None:
        yield ("step",), "a logarithmic scale has no steps: leave out step or log"
    if step is not None and step > high - low:
        yield ("step",), f"should be at most {high - low:g}, so that there are two values, but is {step}"
    count = Range(low, high, step=step, integer=is_whole(NUMBERS[name])).count
    if name in _COUNTS and count is not None and count > MOST_COUNTS:
        yield (), _too_many(count)


def _too_many(count: int) -> str:
    return (
        f"has {count} values, and the samples of each are kept in memory: give at most {MOST_COUNTS}, as a list or by "
        "a greater step"
    )


def _dimension(name: str, value: Any) -> Dimension:
    if isinstance(value, (Choice, Range)):
        return value
    if not isinstance(value, Mapping):
        return Choice(tuple(value))
    return Range(value["low"], value["high"], bool(value.get("log")), value.get("step"), is_whole(NUMBERS[name]))


def write_settings(dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """Returns the plain values that read back as these dimensions."""
    return {name: _plain(dimension) for name, dimension in dimensions.items()}


def _plain(dimension: Dimension) -> list[Setting] | dict[str, Any]:
    if isinstance(dimension, Choice):
        return list(dimension.values)
    stated = {"low": dimension.low, "high": dimension.high, "log": dimension.log or None, "step": dimension.step}
    return set_fields(stated.items())
