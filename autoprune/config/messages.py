"""Says in plain words what pydantic found wrong."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from autoprune.errors import did_you_mean

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "is_instance_of": "a path",
    "model_type": "a mapping (key: value)",
    "dict_type": "a mapping (key: value)",
    "tuple_type": "a list",
    "string_too_short": "text, not empty",
}
_RANGES = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def explain(error: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong, what was expected and, for a name, the nearest one that is known."""
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), _keys_at(error["loc"][:-1], model))
    if kind == "missing":
        return "is needed but not given"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"should be one of {', '.join(choices)} but is {shown(given)}{did_you_mean(str(given), choices)}"
    if kind in _RANGES:
        words, bound = _RANGES[kind]
        return f"should be {words} {context[bound]} but is {shown(given)}"
    if kind in _EXPECTED:
        return f"should be {_EXPECTED[kind]} but is {shown(given)}"
    return f"{error['msg']}, but is {shown(given)}"


def shown(value: Any) -> str:
    """A value as a user would write it."""
    if value is None or isinstance(value, bool):
        return {None: "empty (null)", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _unknown_key(name: str, known: list[str]) -> str:
    near = did_you_mean(name, known)
    return f"unknown key{near}" if near else f"unknown key; known: {', '.join(known)}"


def _keys_at(path: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    for key in path:
        if str(key) in model.model_fields:
            model = _section_in(model.model_fields[str(key)].annotation) or model
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or maps names to."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)
