"""The learning rate of every step, a pure function of the plan."""

from __future__ import annotations

import math

from autoprune.tasks.plan import TrainingPlan

_ROUNDING = 1e-9  # a part of the run that is a whole number of steps on paper may miss it by a rounding


def rate_at(plan: TrainingPlan, step: int, steps: int) -> float:
    """The rate of step `step` (from 1 up to `steps`).

    With W = ⌊warmup · S⌋ steps of warm-up, the rate of step s ≤ W is `rate · s / (W + 1)`, so that step W + 1 is the
    first at the full rate. From there, with t = s − W − 1 steps done of T = S − W:

    - `cosine`: `rate · (1 + cos(π t / T)) / 2`, one period that would reach 0 after the last step;
    - `steps`: `rate · factor^k`, k the number of milestones m with s − 1 ≥ m S, parts of the whole run;
    - `constant`: `rate`.

    Sources: the cosine is equation 5 of Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts and with a least
    rate of 0. The warm-up is the gradual one of Goyal et al. 2017, arXiv:1706.02677, section 2.2, which begins at the
    rate of a single worker where this one begins at rate / (W + 1).
    """
    warmup = math.floor(plan.warmup * steps + _ROUNDING)
    if step <= warmup:
        return plan.rate * step / (warmup + 1)
    if plan.schedule == "cosine":
        return plan.rate * (1 + math.cos(math.pi * (step - 1 - warmup) / (steps - warmup))) / 2
    if plan.schedule == "steps":
        return plan.rate * plan.factor ** sum(step - 1 >= mark * steps - _ROUNDING for mark in plan.milestones)
    return plan.rate
