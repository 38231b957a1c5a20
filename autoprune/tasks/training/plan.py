"""How long, how fast and with which optimizer to train; plain values that need no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from autoprune.errors import TaskError

OptimizerName = Literal["sgd", "adam", "adamw"]
RateSchedule = Literal["cosine", "constant", "steps"]


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast to train: SGD with momentum and a cosine rate without restarts, unless it says otherwise.

    Attributes:
        steps: optimizer steps; where None, `epochs` passes over the training samples (a fraction is allowed).
        rate: the highest learning rate; `autoprune.tasks.training.optimizers` says what it is at each step.
        momentum: of SGD; for Adam and AdamW how fast the mean of the gradients forgets (β₁).
        batch_size: samples a step.
        seed: draws the order and the augmentation of the samples.
        schedule: `cosine` falls to 0 along half a cosine, `steps` falls at the milestones, `constant` does not fall.
        milestones: for `steps`, ascending: the parts of the run after which the rate is multiplied by `factor`.
        warmup: the part of the run in which the rate first rises linearly to `rate`.
        begin: steps that are done already: training goes on with the next one, its rate and its batch. What those steps
            left behind is the caller's to bring: weights, the optimizer's state, random states
            (`autoprune.tasks.training.snapshot` does).
        channels_last: computes with each pixel's channels side by side: a step of ResNet-20 on CIFAR-10 takes about a
            fifth less on one CPU core. The results differ by rounding, and a network that calls `view` on
            `[n, c, h, w]` activations fails.

    Raises:
        TaskError: values out of range, all of them named.
    """

    steps: int | None = None
    epochs: float = 1.0
    rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    seed: int = 0
    optimizer: OptimizerName = "sgd"
    schedule: RateSchedule = "cosine"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    warmup: float = 0.0
    begin: int = 0
    channels_last: bool = False

    def __post_init__(self) -> None:
        faults = [*_out_of_range(self), *_unknown_words(self), *_misplaced_milestones(self)]
        if faults:
            raise TaskError("; ".join(f"the training plan's {fault}" for fault in faults))


_RANGES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "steps": ("at least 0", lambda value: value >= 0),
    "epochs": ("at least 0", lambda value: value >= 0),
    "rate": ("above 0", lambda value: value > 0),
    "momentum": ("in [0, 1)", lambda value: 0 <= value < 1),
    "weight_decay": ("at least 0", lambda value: value >= 0),
    "batch_size": ("at least 1", lambda value: value >= 1),
    "seed": ("at least 0", lambda value: value >= 0),
    "factor": ("in (0, 1]", lambda value: 0 < value <= 1),
    "warmup": ("in [0, 1)", lambda value: 0 <= value < 1),
    "begin": ("at least 0", lambda value: value >= 0),
}


def _out_of_range(plan: TrainingPlan) -> Iterator[str]:
    for name, (expected, fits) in _RANGES.items():
        value = getattr(plan, name)
        if value is not None and not (math.isfinite(value) and fits(value)):
            yield f"{name} should be {expected}{'' if math.isfinite(value) else ' and finite'} but is {value}"


def _unknown_words(plan: TrainingPlan) -> Iterator[str]:
    for name, known in (("optimizer", get_args(OptimizerName)), ("schedule", get_args(RateSchedule))):
        value = getattr(plan, name)
        if value not in known:
            yield f"{name} should be one of {', '.join(known)} but is {value!r}"


def _misplaced_milestones(plan: TrainingPlan) -> Iterator[str]:
    marks = plan.milestones
    if plan.schedule == "steps" and not marks:
        yield "schedule 'steps' needs milestones, such as (0.5, 0.75)"
    if plan.schedule != "steps" and marks:
        yield f"milestones belong to the schedule 'steps', but it is {plan.schedule!r}"
    if not all(0 < mark < 1 for mark in marks) or any(before >= after for before, after in pairwise(marks)):
        yield f"milestones should be ascending numbers between 0 and 1 but are {tuple(marks)}"
    elif marks and marks[0] < plan.warmup:
        yield f"milestones should come after the warm-up ({plan.warmup} of the run) but begin at {marks[0]}"
