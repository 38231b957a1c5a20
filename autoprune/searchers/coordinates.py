"""Allocations with settings as points of the unit cube, in which samplers of continuous spaces propose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.settings import Choice
from autoprune.core.trial import Setting
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.points import Point, Settings

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
        places = (widths - self._low) / np.maximum(self._range, 1.0)
        return places if settings is None else np.append(places, [self._place(n, settings[n]) for n in self._settings])

    def _place(self, name: str, value: Setting) -> float:
        dimension = self._settings[name]
        return dimension.values.index(value) if isinstance(dimension, Choice) else dimension.place(value)

    def widths(self, point: Floats) -> dict[str, int]:
        """The nearest whole widths; not yet in steps, nor within the limits."""
        places = point[: len(self._groups)]
        return dict(zip(self._groups, np.rint(self._low + places * self._range).astype(int).tolist(), strict=True))

    def settings(self, point: Floats) -> Mapping[str, Setting]:
        """The settings at the coordinates behind those of the groups."""
        places = point[len(self._groups) :].tolist()
        return {n: self._at(n, place) for n, place in zip(self._settings, places, strict=True)}

    def _at(self, name: str, place: float) -> Setting:
        dimension = self._settings[name]
        return dimension.values[int(place)] if isinstance(dimension, Choice) else dimension.at(place)

    def realised(self, problem: SearchProblem, point: Floats) -> Point:
        """What lies at a point, its widths moved inside the space and onto the limits."""
        return Point(problem.project(self.widths(point)), self.settings(point))
