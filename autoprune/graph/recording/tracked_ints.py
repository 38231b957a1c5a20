"""Integers that remember where they came from: the size of an activation, an attribute of a module, or arithmetic.

While a network is recorded, sizes and the integer attributes of its modules are of this kind. They are `int`s to
everybody who computes with them, so that any `forward` runs; what is computed from them alone is one of them again.
Where one is compared, or becomes a number of another kind, the recording is told.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import fx


@dataclass(frozen=True)
class Size:
    """Where a number came from: an entry of a shape, or, with `dim` None, an operation's own result."""

    node: fx.Node
    dim: int | None


@dataclass(frozen=True)
class Attribute:
    """Where a number came from: an attribute of a module, by qualified name; `index` of a tuple or list."""

    name: str
    index: int | None = None


@dataclass(frozen=True)
class Computed:
    """Where a number came from: a function of others, plain ones among them."""

    function: Callable[..., Any]
    operands: tuple[Any, ...]


Origin = Size | Attribute | Computed


class Observer(Protocol):
    """What is told of numbers that are not tracked any further."""

    def observe(self, origin: Computed) -> None:
        """Notes that the user's code goes on with a plain number or a truth value that was computed so."""


class TrackedInt(int):
    """An integer with its origin.

    Attributes:
        origin: where it came from.
        observer: the recording that it belongs to; elsewhere it is a plain number.
    """

    origin: Origin
    observer: Observer

    def __new__(cls, value: int, origin: Origin, observer: Observer) -> TrackedInt:
        self = super().__new__(cls, value)
        self.origin, self.observer = origin, observer
        return self

    __hash__ = int.__hash__

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int.__int__(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> int:
        return int.__int__(self)

    def __copy__(self) -> int:
        return int.__int__(self)


def _tracking(name: str, function: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
    plain = getattr(int, name)

    def compute(self: TrackedInt, *others: Any) -> Any:
        value = plain(self, *others)
        if value is NotImplemented:
            return value
        origin = Computed(function, (*others, self) if swapped else (self, *others))
        if type(value) is int and name != "__float__":
            return TrackedInt(value, origin, self.observer)
        self.observer.observe(origin)
        return value

    compute.__name__ = name
    return compute


for _name in ("add", "sub", "mul", "floordiv", "mod", "pow", "truediv"):
    setattr(TrackedInt, f"__{_name}__", _tracking(f"__{_name}__", getattr(operator, _name)))
    setattr(TrackedInt, f"__r{_name}__", _tracking(f"__r{_name}__", getattr(operator, _name), swapped=True))
for _name in ("neg", "pos", "abs", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(TrackedInt, f"__{_name}__", _tracking(f"__{_name}__", getattr(operator, _name)))
TrackedInt.__float__ = _tracking("__float__", float)  # type: ignore[method-assign]
TrackedInt.__bool__ = _tracking("__bool__", bool)  # type: ignore[method-assign]
