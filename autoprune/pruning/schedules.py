"""Schedules: how the number that an allocator takes grows over a training's updates, and when these are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from autoprune.errors import UserError

Unit = Literal["step", "epoch"]

Growth = Callable[[float, float, float], float]
"""Progress in [0, 1], the first number and the last to the number now."""


@dataclass(frozen=True)
class Schedule:
    """How the number that an allocator takes grows over the updates.

    Attributes:
        curve: it gives `last` at progress 1.
        description: one line.
        once: everything at the first update; there are no others.
        rewinds: whether weights, optimizer and rate go back to an early state after each update.
        recovers: whether what was pruned may come back at a later update.
    """

    name: str
    curve: Growth
    description: str
    once: bool = False
    rewinds: bool = False
    recovers: bool = False


@dataclass(frozen=True)
class Timing:
    """When masks are updated: at `start`, and every `frequency` after it up to `end`.

    Attributes:
        start, end: steps or epochs that have passed; 0 is before the first.
    """

    start: int = 0
    end: int = 0
    frequency: int = 1
    unit: Unit = "epoch"

    def __post_init__(self) -> None:
        if self.frequency < 1 or self.start < 0 or self.end < self.start:
            raise UserError(
                f"updates should start at 0 or later, end no earlier and come every 1 or more {self.unit}s, but are "
                f"from {self.start} to {self.end} every {self.frequency}"
            )

    @property
    def updates(self) -> int:
        """How many intervals lie between the first update and the last."""
        return (self.end - self.start) // self.frequency

    def progress(self, now: int) -> float | None:
        """Returns the share of the updates that is done at a time; None where no update takes place.

        The last update is the last one that fits before `end`, so that the final number is reached.
        """
        passed, rest = divmod(now - self.start, self.frequency)
        if rest or not 0 <= passed <= self.updates:
            return None
        return passed / self.updates if self.updates else 1.0


def default_timing(schedule: Schedule) -> Timing:
    """Returns a single update at the start, for a schedule that prunes once or between rounds.

    Raises:
        UserError: the schedule is a gradual one, of which the user must say when.
    """
    if schedule.once or schedule.rewinds:
        return Timing()
    raise UserError(
        f"schedule {schedule.name!r} prunes little by little: say from when to when and how often, for example "
        "timing=Timing(start=0, end=10, frequency=1, unit='epoch')"
    )


def cubic(progress: float, first: float, last: float) -> float:
    """Returns last + (first − last) · (1 − progress)³: much at once while much is redundant, ever less later.

    Source: Zhu and Gupta 2017, arXiv:1710.01878, equation 1.

    Args:
        progress: in [0, 1].
        first: the number at progress 0.
        last: the number at progress 1.
    """
    return last + (first - last) * (1 - progress) ** 3


def linear(progress: float, first: float, last: float) -> float:
    """Returns first + (last − first) · progress: the same growth at every update.

    Args:
        progress: in [0, 1].
        first: the number at progress 0.
        last: the number at progress 1.
    """
    return first + (last - first) * progress


def surviving(progress: float, first: float, last: float) -> float:
    """Returns the sparsity at which every update removes the same share of what the one before it left.

    From `first` = 0, each of n updates removes 1 − (1 − last)^(1/n) of what survives.

    Source: Frankle and Carbin 2019, arXiv:1803.03635, section 2 (iterative pruning).

    Args:
        progress: in [0, 1].
        first: the sparsity at progress 0.
        last: the sparsity at progress 1.

    Raises:
        UserError: a number is no sparsity.
    """
    if not (0 <= first <= 1 and 0 <= last <= 1):
        raise UserError(
            f"a schedule that removes a share of what survives goes from sparsity to sparsity, not from {first} to "
            f"{last}; with thresholds use schedule 'growing'"
        )
    return 1 - math.pow(1 - first, 1 - progress) * math.pow(1 - last, progress)


def at_once(progress: float, first: float, last: float) -> float:
    """Returns the last number.

    Args:
        progress: in [0, 1].
        first: the number at progress 0; not used.
        last: the number at progress 1.
    """
    return last


ONE_SHOT = Schedule("one_shot", at_once, "everything at the first update", once=True)
AGP = Schedule("agp", cubic, "automated gradual pruning: cubic growth, what was pruned may recover", recovers=True)
ITERATIVE = Schedule("iterative", surviving, "the same share of what survives at every update, weights as they are")
GROWING = Schedule("growing", linear, "a number that grows linearly, such as the threshold s·σ", recovers=False)
LOTTERY_TICKET = Schedule(
    "lottery_ticket",
    surviving,
    "the same share of what survives in every round, then back to early weights",
    rewinds=True,
)
