"""Values that a network hands around, and what of them is recorded: tensors in any container, and their shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

_NO_CONTAINERS = (Tensor, nn.Module, type, int, float, str)


def is_nest(value: Any) -> bool:
    """Tells whether a value is made of tensors, plain values, tuples, lists and mappings alone."""
    if isinstance(value, Mapping):
        return all(is_nest(each) for each in value.values())
    if isinstance(value, (tuple, list)):
        return all(is_nest(each) for each in value)
    return value is None or isinstance(value, (Tensor, bool, int, float, str))


def leaves_of(value: Any, objects: bool = True, seen: tuple[Any, ...] = ()) -> Iterator[Any]:
    """Yields what is in nested containers and, if asked, in other objects (a cache of keys and values).

    Args:
        value: anything.
        objects: whether to look into other objects.
        seen: those around it, as objects may hold each other.
    """
    if isinstance(value, Mapping):
        inside: Iterable[Any] = value.values()
    elif isinstance(value, (tuple, list, set, frozenset)):
        inside = value
    elif isinstance(value, slice):
        inside = (value.start, value.stop, value.step)
    elif is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "update"):
        inside = vars(value).values()
    elif objects and hasattr(value, "__dict__") and not isinstance(value, _NO_CONTAINERS) and not callable(value):
        if any(value is each for each in seen):
            return
        inside, seen = vars(value).values(), (*seen, value)
    else:
        yield value
        return
    for each in inside:
        yield from leaves_of(each, objects, seen)


def shapes_of(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.shape
    if isinstance(result, torch.Size):
        return tuple(map(int, result))
    return [shapes_of(each) for each in result] if isinstance(result, (tuple, list)) else result


def is_of_shapes(value: Any) -> bool:
    """Tells whether an operation's value says something of shapes; a tensor's is a `torch.Size`."""
    return isinstance(value, (int, float, tuple)) and not isinstance(value, torch.Size)
