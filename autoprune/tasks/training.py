"""The one training loop; whatever else acts inside training is a hook."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence, Sized

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks.base import Batch, Hook, Task, TrainingPlan


def train(network: nn.Module, task: Task, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
    """Trains the network in place, where its parameters are; it is left in evaluation mode.

    The rate of step s (from 0) of S is `rate · (1 + cos(π s / S)) / 2` (Loshchilov and Hutter 2017, arXiv:1608.03983,
    equation 5, one period ending at 0). Weight decay acts on tensors of two or more dimensions only, not on biases and
    normalisations; He et al. 2015 decay all. The same plan trains the same weights to the same result on the same
    machine, and torch's global random state is as before.

    Raises:
        TaskError: the plan cannot be followed, or a loss is NaN or infinite.
    """
    steps = count_steps(task, plan)
    device = device_of(network)
    optimizer = _optimizer(network, plan)
    network.train()
    try:
        with seeded(plan.seed, device):
            for step, epoch, last, batch in _numbered(task, plan, steps):
                _set_rate(optimizer, plan.rate * (1 + math.cos(math.pi * (step - 1) / steps)) / 2)
                loss = _step(network, task, optimizer, (batch[0].to(device), batch[1].to(device)), step, hooks)
                for hook in hooks:
                    hook.after_step(network, step, steps, loss)
                for hook in hooks if last else ():
                    hook.after_epoch(network, epoch)
    finally:
        optimizer.zero_grad()
        network.eval()


def count_steps(task: Task, plan: TrainingPlan) -> int:
    """How many steps a plan makes: its own number, or `epochs` passes, rounded up.

    Training batches without a length are counted by going through them once.

    Raises:
        TaskError: a negative or non-finite number, or no training batches.
    """
    if not (math.isfinite(plan.rate) and plan.rate > 0):
        raise TaskError(f"the training rate should be above 0 but is {plan.rate}")
    amount = plan.epochs if plan.steps is None else plan.steps
    if not (math.isfinite(amount) and amount >= 0):
        raise TaskError(f"the number of training steps or epochs should be at least 0 but is {amount}")
    if plan.steps is not None:
        return plan.steps
    batches = task.batches("train", plan.batch, plan.seed)
    length = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
    return math.ceil(plan.epochs * length - 1e-9)


def _numbered(task: Task, plan: TrainingPlan, steps: int) -> Iterator[tuple[int, int, bool, Batch]]:
    """Step and epoch from 1, whether a whole pass ends with it, and the batch; every pass in an order of its own."""
    step, epoch = 0, 0
    while step < steps:
        epoch += 1
        held: Batch | None = None
        for batch in task.batches("train", plan.batch, derive_seed(plan.seed, epoch)):
            if held is not None:
                step += 1
                yield step, epoch, False, held
                if step == steps:
                    return
            held = batch
        if held is None:
            raise TaskError(f"task {task.name!r} has no training batches; `batches('train', ...)` came back empty")
        step += 1
        yield step, epoch, True, held


def _step(
    network: nn.Module, task: Task, optimizer: torch.optim.Optimizer, batch: Batch, step: int, hooks: Sequence[Hook]
) -> float:
    """One optimizer step; its loss, with the hooks' terms, before the step."""
    inputs, targets = batch
    outputs = network(inputs)
    loss = task.loss(outputs, targets)
    for hook in hooks:
        term = hook.loss_term(network, inputs, outputs)
        loss = loss if term is None else loss + term
    value = _finite(loss, step)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for hook in hooks:
        hook.after_backward(network, step)
    optimizer.step()
    return value


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TaskError(f"the training loss is {value} at step {step}; lower the rate, or check the training data")
    return value


def _optimizer(network: nn.Module, plan: TrainingPlan) -> torch.optim.SGD:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not trained:
        raise TaskError(f"network {type(network).__name__} has no parameter that requires a gradient; nothing to train")
    decayed = {"params": [p for p in trained if p.dim() > 1], "weight_decay": plan.weight_decay}
    plain = {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0}
    return torch.optim.SGD([decayed, plain], lr=plan.rate, momentum=plan.momentum)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def derive_seed(*parts: int) -> int:
    """A seed for one use out of several numbers: (seed, epoch), say."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's global generators seeded inside, and as before afterwards."""
    on_cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield


def device_of(network: nn.Module) -> torch.device:
    """Where the network's first parameter is (the CPU if it has none)."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
