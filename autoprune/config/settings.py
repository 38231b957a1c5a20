"""Reads the dimensions that a search space names beside the widths, and says what is wrong with each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import InitErrorDetails, ValidationError

from autoprune import registry
from autoprune.core.settings import Choice, Dimension, Range, criterion_pattern
from autoprune.core.trial import Setting
from autoprune.errors import UnknownName, did_you_mean

IMAGE_COUNTS = 16
"""So many values at most has a dimension that counts samples: those of each value stay in memory."""
_COMBINED = ("mean", "sum", "max")
RANGE_KEYS = ("low", "high", "log", "step")

Fault = tuple[tuple[str, ...], str, Any]
"""The keys below `settings`, what is wrong there, and what was given."""


@dataclass(frozen=True)
class Numbers:
    """Which numbers a setting may have.

    Attributes:
        above: whether `least` itself is excluded.
        below: numbers are less than this.
        samples: whether it counts samples.
    """

    least: float = 0
    above: bool = False
    below: float = math.inf
    integer: bool = False
    samples: bool = False

    def fault(self, value: Any) -> str:
        """What is wrong with a value, or nothing."""
        expected = "a whole number" if self.integer else "a number"
        if isinstance(value, bool) or not isinstance(value, int if self.integer else (int, float)):
            return f"should be {expected} but is {value!r}"
        inside = self.least < value if self.above else self.least <= value
        if not inside or not value < self.below:
            bound = f"{'above' if self.above else 'at least'} {self.least:g}"
            bound += f" and below {self.below:g}" if math.isfinite(self.below) else " and finite"
            return f"should be {bound} but is {value!r}"
        return ""


NUMBERS: Mapping[str, Numbers] = {
    "finetune.rate": Numbers(above=True),
    "finetune.steps": Numbers(least=1, integer=True),
    "finetune.distill": Numbers(),
    "finetune.temperature": Numbers(above=True),
    "finetune.weight_decay": Numbers(),
    "finetune.momentum": Numbers(below=1),
    "recalibrate": Numbers(integer=True, samples=True),
    "reconstruct": Numbers(integer=True, samples=True),
}


def _criterion_fault(value: Any) -> str:
    if not isinstance(value, str):
        return f"should be the name of a criterion but is {value!r}"
    try:
        registry.check("criterion", value)
    except UnknownName as fault:
        return str(fault)
    return ""


def _truth_fault(value: Any) -> str:
    return "" if isinstance(value, bool) else f"should be true or false but is {value!r}"


def _combination_fault(value: Any) -> str:
    if value in _COMBINED:
        return ""
    return f"should be one of {', '.join(_COMBINED)} but is {value!r}{did_you_mean(str(value), _COMBINED)}"


_NAMED: Mapping[str, Callable[[Any], str]] = {
    "criterion": _criterion_fault,
    "normalise": _truth_fault,
    "combine": _combination_fault,
}
NAMES = (*_NAMED, "criterion.GROUP_PATTERN", *NUMBERS)


def read_settings(given: Any) -> dict[str, Dimension]:
    """The dimensions that `space.settings` names; a list is a choice, a mapping with `low` and `high` a range.

    Raises:
        ValueError: it is no mapping.
        ValidationError: with every fault of every dimension.
    """
    if not isinstance(given, Mapping):
        raise ValueError("should be a mapping of names to lists or to {low, high}, such as {criterion: [l1, l2]}")
    dimensions: dict[str, Dimension] = {}
    faults: list[Fault] = []
    for name, value in given.items():
        if isinstance(value, (Choice, Range)):
            dimensions[name] = value
            continue
        wrong = [((name, *keys), said, what) for keys, said, what in _faults(name, value)]
        faults += wrong
        if not wrong:
            dimensions[name] = _dimension(name, value)
    if faults:
        raise ValidationError.from_exception_data("settings", [_error(fault) for fault in faults])
    return dimensions


def _error(fault: Fault) -> InitErrorDetails:
    keys, said, given = fault
    return InitErrorDetails(type="value_error", loc=keys, input=given, ctx={"error": ValueError(said)})


def error_at(keys: tuple[str, ...], said: str) -> ValidationError:
    """One fault, at a place that pydantic would not find by itself."""
    return ValidationError.from_exception_data("experiment", [_error((keys, said, None))])


def _faults(name: str, value: Any) -> Iterator[Fault]:
    numbers, check = NUMBERS.get(name), _NAMED.get("criterion" if criterion_pattern(name) else name)
    if numbers is None and check is None:
        near = did_you_mean(name, [*_NAMED, *NUMBERS])
        yield (), f"unknown setting{near or '; known: ' + ', '.join(NAMES)}", value
    elif isinstance(value, Mapping) and numbers is not None:
        yield from _range_faults(numbers, value)
    elif isinstance(value, (list, tuple)):
        yield from _choice_faults(numbers.fault if numbers else check or _truth_fault, value)
        if numbers is not None and numbers.samples and len(value) > IMAGE_COUNTS:
            yield (), _too_many(len(value)), value
    else:
        ways = "a list of values, or {low: …, high: …}" if numbers else "a list of values"
        yield (), f"should be {ways}; a single value is no search: give it in the experiment instead", value


def _choice_faults(fault: Callable[[Any], str], values: Sequence[Any]) -> Iterator[Fault]:
    for value in values:
        if said := fault(value):
            yield (), said, value
    if len(values) < 2:
        yield (), f"has {len(values)} value: give two or more, or set it in the experiment instead", values
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        yield (), f"has {twice[0]!r} twice", values


def _range_faults(numbers: Numbers, given: Mapping[str, Any]) -> Iterator[Fault]:
    for key in given:
        if key not in RANGE_KEYS:
            yield (key,), f"unknown key{did_you_mean(str(key), RANGE_KEYS)}", given[key]
    wrong = False
    for key in ("low", "high"):
        said = "is needed but not given" if key not in given else numbers.fault(given[key])
        if said:
            wrong = True
            yield (key,), said, given.get(key)
    if said := _truth_fault(given.get("log", False)):
        yield ("log",), said, given["log"]
    if given.get("step") is not None:
        wrong_step = Numbers(above=True, integer=numbers.integer).fault(given["step"])
        if wrong_step:
            wrong = True
            yield ("step",), wrong_step, given["step"]
    if not wrong:
        yield from _order_faults(numbers, given)


def _order_faults(numbers: Numbers, given: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with a range whose parts are right, each by itself."""
    low, high, log, step = given["low"], given["high"], given.get("log"), given.get("step")
    if low >= high:
        yield (), f"low {low} should be below high {high}", given
        return
    if log and low <= 0:
        yield ("low",), f"should be above 0 on a logarithmic scale but is {low}", low
    if log and step is not None:
        yield ("step",), "a logarithmic scale has no steps: leave out step or log", step
    if step is not None and step > high - low:
        yield ("step",), f"should be at most {high - low:g}, so that there are two values, but is {step}", step
    count = Range(low, high, step=step, integer=numbers.integer).count
    if numbers.samples and count is not None and count > IMAGE_COUNTS:
        yield (), _too_many(count), given


def _too_many(count: int) -> str:
    return (
        f"has {count} values, and the samples of each are kept in memory: give at most {IMAGE_COUNTS}, as a list or by "
        "a greater step"
    )


def _dimension(name: str, value: Any) -> Dimension:
    if not isinstance(value, Mapping):
        return Choice(tuple(value))
    return Range(value["low"], value["high"], bool(value.get("log")), value.get("step"), NUMBERS[name].integer)


def write_settings(dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """The plain values that read back as these dimensions."""
    return {name: _plain(dimension) for name, dimension in dimensions.items()}


def _plain(dimension: Dimension) -> list[Setting] | dict[str, Any]:
    if isinstance(dimension, Choice):
        return list(dimension.values)
    plain: dict[str, Any] = {"low": dimension.low, "high": dimension.high}
    if dimension.log:
        plain["log"] = True
    return plain if dimension.step is None else {**plain, "step": dimension.step}
