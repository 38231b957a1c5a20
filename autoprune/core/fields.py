"""Settings that state the range of each field once, for Python, for files and for options."""

from __future__ import annotations

import math
import numbers
import operator
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache, partial
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from autoprune.errors import UserError, did_you_mean

Whole = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
AtLeast0 = Annotated[float, Ge(0), Lt(math.inf)]
Above0 = Annotated[float, Gt(0), Lt(math.inf)]
Between = Annotated[float, Gt(0), Lt(1)]
BelowOne = Annotated[float, Ge(0), Lt(1)]
UpToOne = Annotated[float, Gt(0), Le(1)]

T = TypeVar("T")

Fault = tuple[tuple[str | int, ...], str]
"""The keys to a value, and what is wrong with it."""

BOUNDS: Mapping[str, str] = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
"""Name of a bound in `annotated_types`, in pydantic's errors and in `operator` to how it is said."""


def set_fields(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the fields of a dataclass that are neither None nor empty; for `asdict`."""
    return {name: value for name, value in items if value not in (None, ())}


class FieldError(UserError):
    """Fields that are out of range or contradict each other; the message names them all."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(f"{'.'.join(map(str, keys))} {said}".strip() for keys, said in self.faults))


class Checked:
    """Base of frozen dataclasses whose values are checked against their declared types when they are made.

    Pydantic, which reads the same declarations, makes them from a file's mappings; this module does without it.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid", "strict": True}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Lets pydantic make one from a mapping, which in its strict mode it would not."""
        schema = handler(source)
        handler.resolve_ref_schema(schema)["strict"] = False
        return schema

    def __post_init__(self) -> None:
        declared = declarations(type(self))
        given = vars(self)
        faults: list[Fault] = [((name,), said) for name in declared if (said := fault(declared[name], given[name]))]
        if faults := [*faults, *self._contradictions()]:
            raise FieldError(faults)

    def _contradictions(self) -> Iterable[Fault]:
        """Yields what is wrong with values that are right each by itself."""
        return ()


_hints: Callable[[Any], Mapping[str, Any]] = cache(partial(get_type_hints, include_extras=True))


def declarations(kind: Any) -> Mapping[str, Any]:
    """Returns the declared type of each field of a dataclass, with its bounds."""
    return {each.name: _hints(kind)[each.name] for each in fields(kind)}


def only_fields(kind: type[T], value: Any) -> T:
    """Returns a value's fields as one of a class above its own."""
    return kind(**{each.name: getattr(value, each.name) for each in fields(kind)})  # type: ignore[arg-type]


def fault(declared: Any, value: object) -> str:
    """Returns what is wrong with a value of a declared type, or an empty text.

    Only numbers, truths and choices are looked at.
    """
    if value is None and required(declared) is not declared:
        return ""
    kind, bounds = _plain(required(declared))
    if get_origin(kind) is Literal:
        known = [str(each) for each in get_args(kind)]
        near = "" if value in known else did_you_mean(str(value), known)
        return "" if value in known else f"should be one of {', '.join(known)} but is {value!r}{near}"
    wanted, expected = _NUMBERS_AND_TRUTHS.get(kind, (object, ""))
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind in (int, float)):
        return f"should be {expected} but is {value!r}"
    if all(getattr(operator, name)(value, limit) for name, limit in bounds):
        return ""
    return f"should be {' and '.join(bound_in_words(*bound) for bound in bounds)} but is {value!r}"


_NUMBERS_AND_TRUTHS: Mapping[Any, tuple[type, str]] = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    bool: (bool, "true or false"),
}


def required(declared: Any) -> Any:
    """Returns a declared type without None."""
    kinds = [kind for kind in get_args(declared) if kind is not types.NoneType]
    return kinds[0] if get_origin(declared) in (Union, types.UnionType) and len(kinds) == 1 else declared


def is_whole(declared: Any) -> bool:
    """Returns whether the values of a declared type are whole numbers."""
    return _plain(declared)[0] is int


def _plain(declared: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """Returns a declared type without its bounds, and the name ("ge") and number of each of these."""
    kind, *marks = get_args(declared) if get_origin(declared) is Annotated else (declared,)
    return kind, [(name, getattr(mark, name)) for mark in marks for name in BOUNDS if hasattr(mark, name)]


def bound_in_words(name: str, value: Any) -> str:
    """Returns "at least 1", "below 1" or "finite" for a bound called "ge", "gt", "le" or "lt"."""
    return "finite" if value == math.inf else f"{BOUNDS[name]} {int(value) if value == int(value) else value}"
