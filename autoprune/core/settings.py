"""What can be searched beside the widths: settings of the scoring and of the recipe, with the values each may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from autoprune.core.recipe import Finetune, Recipe
from autoprune.core.trial import Setting
from autoprune.errors import UserError

_DIGITS = 4
"""Significant digits of a value from a range: no setting is worth more, and no two machines differ in them."""
_EXACT = 12


@dataclass(frozen=True)
class Choice:
    """One of a few values.

    Attributes:
        own: the experiment's own value, if it is known.
    """

    values: tuple[Setting, ...]
    own: Setting | None = None

    @property
    def default(self) -> Setting:
        """What holds where it is not searched: the experiment's own value, or the first where that is none of these."""
        return self.values[0] if self.own is None or self.own not in self else self.own

    def __contains__(self, value: object) -> bool:
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.values)

    def position(self, value: Setting) -> float:
        """Returns the index of a value; the inverse of `at`."""
        return self.values.index(value)

    def at(self, position: float) -> Setting:
        """Returns the value at an index."""
        return self.values[int(position)]

    def extremes(self) -> tuple[Setting, ...]:
        """Returns the values among which the dearest is."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A number between two others, both included.

    Attributes:
        log: whether it is spread evenly by its logarithm.
        step: values are `low` plus multiples of it; None is any number.
        integer: whether it is a whole number.
        own: the experiment's own value, if it is known.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False
    own: Setting | None = None

    @property
    def default(self) -> Setting:
        """What holds where it is not searched: the experiment's own value, or the nearest; without one the lowest."""
        if self.own is None:
            return self.at(0.0)
        own = min(max(float(self.own), self.low), self.high)
        return self.own if self.own in self else self.at(self.position(own))

    @property
    def count(self) -> int | None:
        """How many values there are; None is without number."""
        step = self._spacing
        return None if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1

    @property
    def _spacing(self) -> float | None:
        return self.step if self.step is not None else 1 if self.integer else None

    def position(self, value: Setting) -> float:
        """Returns where a value lies between the least and the greatest, in [0, 1]; the inverse of `at`."""
        if self.count is not None and not self.log:
            return (round((float(value) - self.low) / (self._spacing or 1)) + 0.5) / self.count
        low, high = self._ends()
        at = math.log(float(value)) if self.log else float(value)
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def at(self, position: float) -> Setting:
        """Returns the value at a position in [0, 1], of which each of a limited number of values has an equal share."""
        if self.count is not None and not self.log:
            steps = min(int(position * self.count), self.count - 1)
            return self._clean(self.low + steps * (self._spacing or 1))
        low, high = self._ends()
        value = low + position * (high - low)
        return self._clean(math.exp(value) if self.log else value)

    def _ends(self) -> tuple[float, float]:
        """Returns the ends of the scale; whole numbers on a logarithmic scale reach half a unit further."""
        beyond = 0.5 if self.integer and self.log else 0.0
        ends = (self.low - beyond, self.high + beyond)
        return (math.log(ends[0]), math.log(ends[1])) if self.log else ends

    def _clean(self, value: float) -> Setting:
        if self.integer:
            return int(min(max(round(value), self.low), self.high))
        narrow = math.floor(math.log10(self.high / (self.high - self.low)))  # more digits where most are the same
        digits = _DIGITS + narrow if self.step is None else _EXACT
        return float(min(max(float(f"{value:.{digits}g}"), self.low), self.high))

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        if self.integer and value != int(value):
            return False
        steps = (value - self.low) / self.step if self.step is not None else 0.0
        return abs(steps - round(steps)) < 1e-6  # multiples of a step such as 0.1 are not exact

    def extremes(self) -> tuple[Setting, ...]:
        """Returns the values among which the dearest is."""
        return (self.at(0.0), self.at(1.0))


Dimension = Choice | Range


def defaults(dimensions: Mapping[str, Dimension]) -> dict[str, Setting]:
    """Returns every dimension at the value that holds where it is not searched."""
    return {name: dimension.default for name, dimension in dimensions.items()}


FINETUNE = "finetune."
CRITERION = "criterion"
_RECIPE = ("recalibrate", "reconstruct")
Combination = Literal["mean", "sum", "max"]
_SCORING = (CRITERION, "normalise", "combine")


def criterion_pattern(name: str) -> str | None:
    """Returns the shell pattern of groups in `criterion.PATTERN`; None for any other name."""
    head, dot, pattern = name.partition(".")
    return pattern if head == CRITERION and dot else None


def of_scoring(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Returns the settings that say how structures are scored."""
    return {n: value for n, value in settings.items() if n in _SCORING or criterion_pattern(n) is not None}


def resolved(recipe: Recipe, settings: Mapping[str, Setting]) -> Recipe:
    """Returns the recipe with the settings that concern it put in; all others are passed over.

    Raises:
        UserError: a setting of the fine-tuning is given, but neither the recipe nor a setting says how many steps.
    """
    changed: dict[str, Any] = {name: settings[name] for name in _RECIPE if name in settings}
    training: dict[str, Any] = {
        n.removeprefix(FINETUNE): value for n, value in settings.items() if n.startswith(FINETUNE)
    }
    if training:
        if recipe.finetune is None and "steps" not in training:
            raise UserError(needs_finetune(FINETUNE + next(iter(training))))
        changed["finetune"] = replace(recipe.finetune or Finetune(steps=1), **training)
    return replace(recipe, **changed)


def extreme_recipes(recipe: Recipe, dimensions: Mapping[str, Dimension]) -> list[Recipe]:
    """Returns the recipes of which one is the dearest whatever the dimensions, and whose samples suffice for all."""
    names = [name for name in dimensions if name in (*_RECIPE, f"{FINETUNE}steps", f"{FINETUNE}distill")]
    corners = product(*(dimensions[name].extremes() for name in names))
    settings = defaults(dimensions)
    return [resolved(recipe, {**settings, **dict(zip(names, corner, strict=True))}) for corner in corners]


def needs_finetune(name: str) -> str:
    """Returns what to say of a setting of the fine-tuning where there is none."""
    return (
        f"{name} is searched, but candidates are not fine-tuned: give evaluation.finetune (its steps, say), "
        f"or search {FINETUNE}steps too"
    )


def own_value(name: str, recipe: Recipe) -> Setting | None:
    """Returns the recipe's own value of a setting; None where it has none."""
    if name in _RECIPE:
        value: Setting = getattr(recipe, name)
        return value
    if not name.startswith(FINETUNE):
        return None
    field = name.removeprefix(FINETUNE)
    if recipe.finetune is None and field == "steps":
        return None
    own: Setting = getattr(recipe.finetune or Finetune(steps=1), field)
    return own


def with_own(dimensions: Mapping[str, Dimension], own: Mapping[str, Setting | None]) -> dict[str, Dimension]:
    """Returns the dimensions with the experiment's own values."""
    return {name: replace(dimension, own=own.get(name)) for name, dimension in dimensions.items()}


def format_settings(settings: Mapping[str, Setting]) -> str:
    """Returns settings as text: `criterion=l2 finetune.rate=0.03`."""
    return " ".join(f"{name}={format_setting(value)}" for name, value in settings.items())


def format_setting(value: Setting) -> str:
    """Returns a value as it is written in an experiment."""
    return str(value).lower() if isinstance(value, bool) else str(value)
