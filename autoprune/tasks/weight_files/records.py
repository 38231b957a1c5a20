"""Stand-ins for the classes that a pickle names: they keep what an object was made from, and do nothing."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

_CLASSES = frozenset(
    "datetime.datetime datetime.date datetime.time datetime.timedelta datetime.timezone functools.partial".split()
)
_BUILTINS = ("bool", "bytes", "dict", "float", "int", "list", "object", "range", "slice", "str", "tuple", "type")
_NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")
_PATH = re.compile(r"pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path")
# Booleans, numbers and texts; values of other types are not plain, and are not made.
_TYPE_CODE = re.compile(r"[?bBhHiIlLqQefdFD]|[biufc]\d{1,2}|[SU]\d{1,6}")


class Record:
    """An object in a file, as the arguments and the state that it was pickled with.

    Attributes:
        name: of its class.
        arguments: what the class would have been called with.
        state: what the object would have been given afterwards, mostly its attributes.
    """

    name = ""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> Any:
        record = super().__new__(cls)
        record.arguments = arguments
        return record

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Entries(Record):
    """A dictionary of a class of its own; only its entries are kept."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class _Items(Record):
    """A list of a class of its own; only its items are kept."""

    def __new__(cls, *arguments: Any) -> Any:
        return [*arguments[0]] if arguments and isinstance(arguments[0], (list, tuple)) else []


class _Function(Record):
    """A function; a file may name it as a value, not call it."""

    def __new__(cls, *_: Any) -> Any:
        raise pickle.UnpicklingError(f"it calls GLOBAL {cls.name}")


def stand_in(name: str, filled_as: Literal["", "dict", "list"] = "") -> type[Record]:
    """Returns what takes the place of the class or function of that name.

    Args:
        name: `package.module.Class`, as the file names it.
        filled_as: `dict` or `list` where the file fills such objects item by item.
    """
    module, _, last = name.rpartition(".")
    # By the convention on names: what is not a class is there to be called.
    is_class = last.lstrip("_")[:1].isupper() or name in _CLASSES
    kind = {"": Record if is_class else _Function, "dict": _Entries, "list": _Items}[filled_as]
    return type(last, (kind,), {"name": name, "__module__": module, "__qualname__": last})


class _Array(Record):
    """An array of NumPy's, from its shape, type and bytes."""

    name = "numpy.ndarray"

    def value(self) -> Any:
        try:
            _, shape, kind, fortran, content = self.state
            flat = np.frombuffer(content, _type_of(kind)).copy()
            return flat.reshape(shape, order="F" if fortran else "C")
        except (TypeError, ValueError):
            return self


def _array(*_: Any) -> _Array:
    return _Array()


class _Type(Record):
    name = "numpy.dtype"


def _type_of(kind: Any) -> np.dtype[Any]:
    code = kind.arguments[0] if isinstance(kind, _Type) and kind.arguments else None
    if not isinstance(code, str) or not _TYPE_CODE.fullmatch(code):
        raise TypeError("no plain type")
    big = isinstance(kind.state, tuple) and kind.state[1:2] == (">",)
    return np.dtype(code).newbyteorder(">" if big else "<")


def _scalar(kind: Any, content: Any = b"", *_: Any) -> Any:
    """Returns the number or text of a NumPy scalar as Python's own."""
    try:
        return np.frombuffer(content, _type_of(kind), count=1)[0].item()
    except (TypeError, ValueError):
        return Record(kind, content)


KNOWN: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Type,
    "numpy.ndarray": _Array,
    "collections.defaultdict": stand_in("collections.defaultdict", "dict"),
    "collections.deque": stand_in("collections.deque", "list"),
    "builtins.frozenset": stand_in("builtins.frozenset", "list"),
    **{f"builtins.{name}": type(name, (Record,), {"name": f"builtins.{name}"}) for name in _BUILTINS},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
}
"""What stands for names whose objects hold plain values, or which containers are made with."""


def settle(value: Any) -> Any:
    """Returns a value out of a file with the records in it that are plain replaced by what they are.

    Namespaces become dictionaries, paths texts, arrays NumPy's arrays. Dictionaries and lists are changed in place.

    Raises:
        RecursionError: it is nested too deeply.
    """
    return _settle(value, {})


def _settle(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if not isinstance(value, (dict, list, tuple, Record)):
        return value
    if id(value) not in done:
        done[id(value)] = value, value  # the object too, so that no other gets its id; a cycle ends here
        done[id(value)] = value, _settled(value, done)
    return done[id(value)][1]


def _settled(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(value, dict):
        for key, each in value.items():
            value[key] = _settle(each, done)
    elif isinstance(value, list):
        value[:] = [_settle(each, done) for each in value]
    elif type(value) is tuple:
        return tuple(_settle(each, done) for each in value)
    elif isinstance(value, _Array):
        return value.value()
    elif isinstance(value, Record) and value.name in _NAMESPACES and isinstance(value.state, dict):
        return _settle(value.state, done)
    elif isinstance(value, Record) and _PATH.fullmatch(value.name):
        parts = [part for part in value.arguments if isinstance(part, str)]
        return str(PurePosixPath(*parts))
    return value
