"""Where a search that also searches settings may look: an allocation with a value for each setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.settings import Choice, Dimension, Range
from autoprune.core.trial import Setting

Settings = Mapping[str, Setting]

STRIDE = 0.2
"""Standard deviation of a move within a range, as a share of it."""
_DRAWS = 20


@dataclass(frozen=True)
class Point:
    """An allocation with settings; equal, as candidates are, if widths and values are."""

    allocation: Allocation
    settings: Settings = field(default_factory=dict)

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
        place = abs(dimension.place(value) + STRIDE * rng.normal()) % 2.0
        found = dimension.at(2.0 - place if place > 1.0 else place)
        if found != value:
            return found
    return value
