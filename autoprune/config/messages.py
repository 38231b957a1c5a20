"""Says in plain words what pydantic found wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from autoprune.core.fields import BOUNDS, FieldError, bound_in_words, declarations
from autoprune.errors import ConfigError, did_you_mean

Keys = tuple[str | int, ...]
T = TypeVar("T")

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "is_instance_of": "a path",
    "model_type": "a mapping (key: value)",
    "dataclass_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "string_too_short": "text, not empty",
}
_MOST_BITS = 10_000
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def validated(model: type[T], given: Any, position: Callable[[Keys, bool], str], faults: Sequence[str] = ()) -> T:
    """Returns plain values as a section or a whole file.

    Args:
        model: a model of pydantic's or a dataclass.
        given: mappings, lists and plain values.
        position: from the keys to a fault, and whether the last of them is at fault itself, to what stands before it in
            the message.
        faults: what was found wrong before.

    Raises:
        ConfigError: there were faults before, or there are some; all are listed.
    """
    found = list(faults)
    try:
        value = TypeAdapter(model).validate_python(listed_as_tuples(given))
    except RecursionError:
        raise ConfigError([*found, "the settings are nested too deeply, or hold themselves"]) from None
    except ValidationError as invalid:
        found += [f"{position(keys, in_key)}: {said}" for keys, said, in_key in faults_of(invalid, model)]
    if found:
        raise ConfigError(found)
    return value


def listed_as_tuples(value: Any) -> Any:
    """Returns plain values with tuples in place of lists, as frozen settings have them."""
    if isinstance(value, dict):
        return {key: listed_as_tuples(inner) for key, inner in value.items()}
    return tuple(listed_as_tuples(inner) for inner in value) if isinstance(value, list) else value


def faults_of(invalid: ValidationError, model: type) -> Iterator[tuple[Keys, str, bool]]:
    """Yields the keys to each fault, what is wrong there, and whether it is the key itself."""
    for error in invalid.errors(include_url=False):
        keys = tuple(key for key in error["loc"] if not _is_choice(key))
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, FieldError):
            for below, said in cause.faults:
                yield (*keys, *below), said, False
        else:
            yield keys, explain({**error, "loc": keys}, model), error["type"] in _UNKNOWN


def _is_choice(key: str | int) -> bool:
    """Returns whether a part of a place is pydantic's name of one of several types that a value may have."""
    return isinstance(key, str) and ("[" in key or key in ("float", "int", "literal", "constrained-float"))


def explain(error: ErrorDetails, model: type) -> str:
    """Returns what is wrong, what was expected and, for a name, the nearest one that is known."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind in _UNKNOWN:
        known = _keys_at(error["loc"][:-1], model)
        return "unknown key" + (did_you_mean(str(error["loc"][-1]), known) or f"; known: {', '.join(known)}")
    if kind == "missing":
        return "is needed but not given"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"should be one of {', '.join(choices)} but is {shown(given)}{did_you_mean(str(given), choices)}"
    for bound in BOUNDS:
        if bound in context:
            return f"should be {bound_in_words(bound, context[bound])} but is {shown(given)}"
    if kind in _EXPECTED:
        return f"should be {_EXPECTED[kind]} but is {shown(given)}"
    return f"{error['msg']}, but is {shown(given)}"


def shown(value: Any) -> str:
    """Returns a value as a user would write it."""
    if value is None or isinstance(value, bool):
        return {None: "empty (null)", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:  # Python writes no more than some thousand digits
        return "a number of more digits than can be written"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _keys_at(path: Keys, section: type) -> list[str]:
    for key in path:
        section = section_in(fields_of(section).get(str(key))) or section
    return list(fields_of(section))


def fields_of(section: type) -> Mapping[str, Any]:
    """Returns the keys of a section of a file and the types of their values."""
    if issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    return declarations(section)


def section_in(annotation: Any) -> type | None:
    """Returns the section that a value of this type is, or maps names to."""
    if isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, BaseModel)):
        return annotation
    return next((found for inner in get_args(annotation) if (found := section_in(inner))), None)
