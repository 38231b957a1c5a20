"""Allocations with settings as points of the unit cube, in which samplers of continuous spaces propose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.costs import Floats
from autoprune.core.settings import Choice, Dimension
from autoprune.core.space import Bounds
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
    """Draws every setting by itself, uniform among its values or on its scale."""
    return {
        name: each.at(int(rng.integers(len(each.values))) if isinstance(each, Choice) else rng.random())
        for name, each in dimensions.items()
    }


def move_settings(
    dimensions: Mapping[str, Dimension], settings: Settings, rng: np.random.Generator
) -> dict[str, Setting]:
    """Returns the settings with a random one of them at another value: any other choice, a near one of a range.

    Args:
        dimensions: one at least; each has more than one value.
        settings: a value for each of them.
        rng: of the draws.
    """
    names = list(dimensions)
    name = names[int(rng.integers(len(names)))]
    return {**settings, name: _moved(dimensions[name], settings[name], rng)}


def _moved(dimension: Dimension, value: Setting, rng: np.random.Generator) -> Setting:
    """Returns another choice, or a near value of a range (mirrored at its ends), the old one if that came too often."""
    if isinstance(dimension, Choice):
        others = [each for each in dimension.values if each != value]
        return others[int(rng.integers(len(others)))]
    for _ in range(_DRAWS):
        position = abs(dimension.position(value) + STRIDE * rng.normal()) % 2.0
        found = dimension.at(2.0 - position if position > 1.0 else position)
        if found != value:
            return found
    return value


LEAST_REMOVED = 0.1
"""The share of a coordinate at whose low end a branch is gone: as much as the other levels have, at least so much."""


class Coordinates:
    """Every group's width as a number in [0, 1]: how far it lies from the narrowest to the widest allowed.

    Of a group at whose width 0 a branch is removed, a share at the low end is that.

    Behind them the settings: of a range how far along it, of a choice the index of its value.

    Attributes:
        names: of the coordinates, in order.
        choices: of those that are an index, by how many values.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem, self._groups, self._settings = problem, problem.space.names, problem.space.settings
        self.names = (*self._groups, *(f"settings/{name}" for name in self._settings))
        self.choices = {f"settings/{n}": len(d.values) for n, d in self._settings.items() if isinstance(d, Choice)}
        self._low = problem.projection.lowest
        self._range = problem.projection.ceiling - self._low
        self._removed = np.array([_share_removed(bounds) for bounds in problem.projection.bounds])

    def of(self, allocation: Allocation, settings: Settings | None = None) -> Floats:
        """Returns the `[coordinate]` point; without settings the coordinates of the groups alone."""
        widths = self._problem.projection.vector(allocation)
        inside = np.maximum(widths - self._low, 0) / np.maximum(self._range, 1)
        positions = np.where(widths > 0, self._removed + (1.0 - self._removed) * inside, 0.0)
        if settings is None:
            return np.asarray(positions)
        return np.append(positions, [each.position(settings[name]) for name, each in self._settings.items()])

    def widths(self, point: Floats) -> dict[str, int]:
        """Returns the nearest whole widths to a `[coordinate]` point; not yet in steps, nor within the limits."""
        positions = point[: len(self._groups)]
        inside = (positions - self._removed) / (1.0 - self._removed)
        widths = np.where(inside < 0, 0, np.rint(self._low + inside * self._range)).astype(int)
        return dict(zip(self._groups, widths.tolist(), strict=True))

    def settings(self, point: Floats) -> Mapping[str, Setting]:
        """Returns the settings at a `[coordinate]` point, by the coordinates behind those of the groups."""
        positions = point[len(self._groups) :].tolist()
        return {name: self._settings[name].at(at) for name, at in zip(self._settings, positions, strict=True)}

    def realised(self, point: Floats) -> Point:
        """Returns what lies at a `[coordinate]` point, its widths moved inside the space and onto the limits."""
        return Point(self._problem.project(self.widths(point)), self.settings(point))


def _share_removed(bounds: Bounds) -> float:
    """Returns the share of a group's coordinate at which its branch is gone; 0 where none is removed with it."""
    return max(LEAST_REMOVED, 1.0 / len(bounds.levels())) if bounds.removable else 0.0
