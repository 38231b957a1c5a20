"""Random numbers of the user's data: the same for the same seed, whatever generators they are drawn from.

That is Python's, NumPy's and torch's global ones, and every generator that the data hold or name: a loader's, a
sampler's, a transform's, one in a closure or a module's variable. Between two batches all are the caller's.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_MOST_OBJECTS = 10_000
_LONGEST = 1_000
"""Longer containers hold data, no transforms."""
_PLAIN = (str, bytes, int, float, complex, type(None), Tensor, np.ndarray, nn.Module, ModuleType, range)


@dataclass(frozen=True)
class _Generator:
    """A source of random numbers whose state can be read and set.

    Attributes:
        seed: a seed to the state of a new generator of its kind.
    """

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    seed: Callable[[int], Any]


class OwnRandomness:
    """States of all generators that begin at a seed and are kept from the caller's.

    Args:
        seed: of all of them.
        holders: objects whose own generators belong to them.
    """

    def __init__(self, seed: int, *holders: object) -> None:
        self._generators = [*_global_generators(), *map(_wrapped, held_generators(*holders))]
        seeds = np.random.SeedSequence(seed).generate_state(len(self._generators))
        seeds[0] = seed % 2**32
        self._states = [each.seed(int(own)) for each, own in zip(self._generators, seeds, strict=True)]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draws from these states; afterwards all generators are where they were."""
        outside = self._exchange(self._states)
        try:
            yield
        finally:
            self._states = self._exchange(outside)

    def _exchange(self, states: list[Any]) -> list[Any]:
        found = [each.read() for each in self._generators]
        for each, state in zip(self._generators, states, strict=True):
            each.write(state)
        return found


def _global_generators() -> list[_Generator]:
    found = [
        _Generator(torch.get_rng_state, torch.set_rng_state, _torch_state),
        _Generator(random.getstate, random.setstate, lambda seed: random.Random(seed).getstate()),
        _wrapped(np.random.mtrand._rand),  # NumPy's global generator
    ]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch leaves it untyped
        found += [_wrapped(generator) for generator in torch.cuda.default_generators]
    return found


def _torch_state(seed: int, device: torch.device | str = "cpu") -> Tensor:
    return torch.Generator(device).manual_seed(seed).get_state()


def _wrapped(generator: Any) -> _Generator:
    if isinstance(generator, torch.Generator):
        device = generator.device
        return _Generator(generator.get_state, generator.set_state, lambda seed: _torch_state(seed, device))
    if isinstance(generator, random.Random):
        return _Generator(generator.getstate, generator.setstate, lambda seed: random.Random(seed).getstate())
    if isinstance(generator, np.random.RandomState):
        return _Generator(
            generator.get_state,
            generator.set_state,
            lambda seed: np.random.RandomState(seed).get_state(),
        )
    bits = generator.bit_generator
    return _Generator(
        lambda: bits.state, lambda state: setattr(bits, "state", state), lambda seed: type(bits)(seed).state
    )


_KINDS = (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)


def held_generators(*holders: object) -> list[Any]:
    """Returns the generators that objects hold, by attributes, in containers, closures and the variables they name.

    Args:
        holders: datasets, loaders, samplers, functions.
    """
    found: list[Any] = []
    waiting: list[object] = list(holders)
    seen: dict[int, object] = {}
    known = (torch.default_generator, np.random.mtrand._rand, random._inst)
    while waiting and len(seen) < _MOST_OBJECTS:
        value = waiting.pop(0)
        if id(value) in seen or isinstance(value, _PLAIN) or any(value is each for each in known):
            continue
        seen[id(value)] = value
        if isinstance(value, _KINDS):
            if not isinstance(value, random.SystemRandom):
                found.append(value)
        else:
            waiting += _held_by(value)
    return found


def _held_by(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values()) if len(value) <= _LONGEST else []
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value) if len(value) <= _LONGEST else []
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, FunctionType):
        return _held_by_function(value)
    held = list(getattr(value, "__dict__", {}).values()) if not isinstance(value, type) else []
    own = [each for each in (value if isinstance(value, type) else type(value)).__mro__ if not _is_library(each)]
    methods = [member for each in own for member in vars(each).values() if isinstance(member, FunctionType)]
    return [*held, *methods]


def _held_by_function(function: FunctionType) -> list[object]:
    """Returns what a function closes over, its defaults, and the functions and generators that it names."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # still empty
            continue
    if _is_library(function):
        return cells
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    kept = [each for each in named if isinstance(each, (*_KINDS, FunctionType))]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *kept]


def _is_library(value: Any) -> bool:
    return str(getattr(value, "__module__", None)).partition(".")[0] in ("torch", "numpy", "builtins", "random")
