"""Allocations with settings as points of the unit cube, in which samplers of continuous spaces propose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.settings import Choice, Dimension, Range
from autoprune.core.trial import Setting
from autoprune.searchers.base.searcher import SearchProblem

Settings = Mapping[str, Setting]

STRIDE = 0.2
"""Standard deviation of a move within a range, as a share of it."""
_DRAWS = 20


StopThresholds = tuple[float | None, ...]
"""For each rung, the value above which an evaluation stops there; empty turns early stopping off."""


@dataclass(frozen=True)
class Point:
    """An allocation with settings; equal, as candidates are, if widths and values are."""

    allocation: Allocation
    settings: Settings = field(default_factory=dict)
    stop_thresholds: StopThresholds = field(default=(), compare=False)

    def __hash__(self) -> int:
        return hash((self.allocation, frozenset(self.settings.items())))


Proposal = Allocation | Point
"""What a searcher proposes: an allocation alone is one under the settings that hold where they are not searched."""


def draw_settings(dimensions: Mapping[str, Dimension], rng: np.random.Generator) -> dict[str, Setting]:
    """Every setting by itself, uniform among its values or on its scale."""
    return {name: _drawn(dimension, rng) for name, dimension in dimensions.items()}


def _drawn(dimension: Dimension, rng: np.random.Generator) -> Setting:
    if isinstance(dimension, Choice):
        return dimension.values[int(rng.integers(len(dimension.values)))]
    return dimension.at(rng.random())


def move_settings(
    dimensions: Mapping[str, Dimension], settings: Settings, rng: np.random.Generator
) -> dict[str, Setting]:
    """The settings with one of them, drawn at random, at another value: any other choice, a near one of a range."""
    names = list(dimensions)
    name = names[int(rng.integers(len(names)))]
    return {**settings, name: _moved(dimensions[name], settings[name], rng)}


def _moved(dimension: Dimension, value: Setting, rng: np.random.Generator) -> Setting:
    if isinstance(dimension, Range):
        return _strode(dimension, value, rng)
    others = [each for each in dimension.values if each != value]
    return others[int(rng.integers(len(others)))]


def _strode(dimension: Range, value: Setting, rng: np.random.Generator) -> Setting:
    """A near value of a range, mirrored at its ends; the old one if that came `_DRAWS` times."""
    for _ in range(_DRAWS):
        position = abs(dimension.position(value) + STRIDE * rng.normal()) % 2.0
        found = dimension.at(2.0 - position if position > 1.0 else position)
        if found != value:
            return found
    return value


Floats = NDArray[np.float64]


class Coordinates:
    """Every group's width as a number in [0, 1]: how far it lies from the narrowest to the widest allowed.

    Behind them the settings: of a range how far along it, of a choice the index of its value.

    Attributes:
        names: of the coordinates, in order.
        choices: of those that are an index, by how many values.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._groups, self._settings = problem.space.names, problem.space.settings
        self.names = (*self._groups, *(f"settings/{name}" for name in self._settings))
        self.choices = {f"settings/{n}": len(d.values) for n, d in self._settings.items() if isinstance(d, Choice)}
        narrowest, widest = problem.space.narrowest(), problem.space.widest()
        self._low = np.array([narrowest[name] for name in self._groups], dtype=np.float64)
        self._range = np.array([widest[name] for name in self._groups], dtype=np.float64) - self._low

    def of(self, allocation: Allocation, settings: Settings | None = None) -> Floats:
        """`[coordinate]`; without settings those of the groups alone."""
        widths = np.array([allocation[name] for name in self._groups], dtype=np.float64)
        positions = (widths - self._low) / np.maximum(self._range, 1.0)
        if settings is None:
            return positions
        return np.append(positions, [self._position(n, settings[n]) for n in self._settings])

    def _position(self, name: str, value: Setting) -> float:
        dimension = self._settings[name]
        return dimension.values.index(value) if isinstance(dimension, Choice) else dimension.position(value)

    def widths(self, point: Floats) -> dict[str, int]:
        """The nearest whole widths; not yet in steps, nor within the limits."""
        positions = point[: len(self._groups)]
        return dict(zip(self._groups, np.rint(self._low + positions * self._range).astype(int).tolist(), strict=True))

    def settings(self, point: Floats) -> Mapping[str, Setting]:
        """The settings at the coordinates behind those of the groups."""
        positions = point[len(self._groups) :].tolist()
        return {n: self._at(n, position) for n, position in zip(self._settings, positions, strict=True)}

    def _at(self, name: str, position: float) -> Setting:
        dimension = self._settings[name]
        return dimension.values[int(position)] if isinstance(dimension, Choice) else dimension.at(position)

    def realised(self, problem: SearchProblem, point: Floats) -> Point:
        """What lies at a point, its widths moved inside the space and onto the limits."""
        return Point(problem.project(self.widths(point)), self.settings(point))
