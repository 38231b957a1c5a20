"""The optimizer of a training plan."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.errors import TaskError
from autoprune.tasks.plan import TrainingPlan


def build_optimizer(network: nn.Module, plan: TrainingPlan) -> torch.optim.Optimizer:
    """The plan's optimizer over the parameters that require a gradient, in two groups: matrices and up, then vectors.

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


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def rate_of(optimizer: torch.optim.Optimizer) -> float:
    """The rate that `set_rate` gave: in a hook's `after_step` that of the step just taken."""
    return float(optimizer.param_groups[0]["lr"])
