"""The optimizer of a training plan."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError


def build_optimizer(network: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    """Returns the plan's optimizer over the parameters that require a gradient: matrices and up, then vectors.

    Weight decay acts on tensors of two or more dimensions only, not on biases and normalisations; He et al. 2015 decay
    all. SGD and Adam (Kingma and Ba 2015, arXiv:1412.6980) add it to the gradient, AdamW shrinks the weights by it
    (Loshchilov and Hutter 2019, arXiv:1711.05101). β₁ of the two is the plan's momentum, β₂ 0.999 and ε 1e-8.

    Raises:
        TaskError: nothing requires a gradient.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise TaskError(f"network {type(network).__name__} has no parameter that requires a gradient; nothing to train")
    decayed = {"params": [p for p in trained if p.dim() > 1], "weight_decay": plan.weight_decay}
    plain = {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0}
    groups = [decayed, plain]
    if plan.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=plan.rate, momentum=plan.momentum)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=plan.rate, betas=(plan.momentum, 0.999))


SCALER = "scaler"
"""Where the optimizer's state holds that of the scaler."""


def build_scaler(optimizer: torch.optim.Optimizer, plan: TrainingPlan, device: torch.device) -> torch.amp.GradScaler:
    """Returns the scaler of gradients, which acts with precision fp16 alone.

    Its state is part of the optimizer's `state_dict` then, so that snapshots hold it.

    Args:
        optimizer: whose gradients are scaled.
        plan: with the precision.
        device: of the network.
    """
    scaler = torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")
    share_state(optimizer, scaler)
    return scaler


def share_state(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Makes the state of a scaler, if there is one and it acts, part of the optimizer's `state_dict`."""
    if scaler is None or not scaler.is_enabled():
        return

    def put(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, SCALER: scaler.state_dict()}

    def take(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        scaler.load_state_dict(state[SCALER])
        return {name: value for name, value in state.items() if name != SCALER}

    optimizer.register_state_dict_post_hook(put)
    optimizer.register_load_state_dict_pre_hook(take)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def rate_of(optimizer: torch.optim.Optimizer) -> float:
    """Returns the rate that `set_rate` gave: in a hook's `after_step` that of the step just taken."""
    return float(optimizer.param_groups[0]["lr"])


_ROUNDING = 1e-9  # a part of the run that is a whole number of steps on paper may miss it by a rounding


def rate_at(plan: TrainingPlan, step: int, steps: int) -> float:
    """Returns the rate of a step.

    With W = ⌊warmup · S⌋ steps of warm-up, the rate of step s ≤ W is `rate · s / (W + 1)`, so that step W + 1 is the
    first at the full rate. From there, with t = s − W − 1 steps done of T = S − W:

    - `cosine`: `rate · (1 + cos(π t / T)) / 2`, one period that would reach 0 after the last step;
    - `steps`: `rate · factor^k`, k the number of milestones m with s − 1 ≥ m S, parts of the whole run;
    - `constant`: `rate`.

    Sources: the cosine is equation 5 of Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts and with a least
    rate of 0. The warm-up is the gradual one of Goyal et al. 2017, arXiv:1706.02677, section 2.2, which begins at the
    rate of a single worker where this one begins at rate / (W + 1).

    Args:
        plan: gives rate, warm-up and schedule.
        step: s, from 1 up to `steps`.
        steps: S, of the whole run.
    """
    warmup = math.floor(plan.warmup * steps + _ROUNDING)
    if step <= warmup:
        return plan.rate * step / (warmup + 1)
    if plan.schedule == "cosine":
        return plan.rate * (1 + math.cos(math.pi * (step - 1 - warmup) / (steps - warmup))) / 2
    if plan.schedule == "steps":
        return plan.rate * plan.factor ** sum(step - 1 >= mark * steps - _ROUNDING for mark in plan.milestones)
    return plan.rate
