"""The text of `--finetune` as the settings of a training plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from autoprune.core.recipe import DISTILLATION
from autoprune.errors import TaskError, UserError
from autoprune.tasks.plan import TrainingPlan


def _fractions(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split("+"))


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


_INTEGER, _NUMBER = (int, "a whole number"), (float, "a number")
_SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "steps": _INTEGER,
    "epochs": _NUMBER,
    "rate": _NUMBER,
    "momentum": _NUMBER,
    "weight_decay": _NUMBER,
    "batch": _INTEGER,
    "seed": _INTEGER,
    "optimizer": (str, "a name"),
    "schedule": (str, "a name"),
    "milestones": (_fractions, "numbers with + between them, such as 0.5+0.75,"),
    "factor": _NUMBER,
    "warmup": _NUMBER,
    "channels_last": (_truth, "true or false"),
    "distill": _NUMBER,
    "temperature": _NUMBER,
}


def parse_plan(text: str) -> dict[str, Any]:
    """The fields of a `TrainingPlan` in `epochs=1,rate=0.02`, and `distill` and `temperature`; torch is not imported.

    Raises:
        UserError: an unknown setting, a value of another type, or values that make no plan.
    """
    plan: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if key not in _SETTINGS:
            raise UserError(f"--finetune {text}: unknown setting {key!r}; known: {', '.join(_SETTINGS)}")
        read, expected = _SETTINGS[key]
        try:
            plan[key] = read(value)
        except ValueError:
            raise UserError(f"--finetune {text}: {key} should be {expected} but is {value!r}") from None
    _check(text, plan)
    return plan


def _check(text: str, plan: dict[str, Any]) -> None:
    taught = [key for key in DISTILLATION if key in plan]
    try:
        TrainingPlan(**{key: value for key, value in plan.items() if key not in taught})
    except TaskError as fault:
        raise UserError(f"--finetune {text}: {fault}") from fault
    for key in ("steps", "epochs", *taught):
        if key in plan and not (math.isfinite(plan[key]) and plan[key] > 0):
            raise UserError(f"--finetune {text}: {key} should be above 0 and finite but is {plan[key]:g}")
    if taught == ["temperature"]:
        raise UserError(f"--finetune {text}: temperature belongs to distill, which is not given")
