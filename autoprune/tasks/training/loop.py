"""The one training loop; whatever else acts inside training is a hook."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence, Sized

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import Diverged, TaskError
from autoprune.graph.inputs import ModelInputs, call_network, network_inputs
from autoprune.tasks.base import Batch, Hook, Task
from autoprune.tasks.training.optimizers import build_optimizer, rate_at, set_rate


@contextlib.contextmanager
def arranged(
    network: nn.Module, channels_last: bool
) -> Iterator[Callable[[Tensor | ModelInputs], Tensor | ModelInputs]]:
    """Lays `[out, in, rows, columns]` parameters channels last, if asked, and yields what lays a batch likewise.

    Afterwards the parameters lie as before; their values, and which objects they are, never change.
    """
    if not channels_last:
        yield lambda inputs: inputs
        return
    moved = [parameter for parameter in network.parameters() if parameter.dim() == 4 and parameter.is_contiguous()]
    try:
        for parameter in moved:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        yield _channels_last
    finally:
        for parameter in moved:
            parameter.data = parameter.data.contiguous()


def _channels_last(inputs: Tensor | ModelInputs) -> Tensor | ModelInputs:
    if isinstance(inputs, Tensor) and inputs.dim() == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


_Numbered = tuple[int, int, bool, Batch]
"""Step and epoch from 1, whether a whole pass ends with it, and the batch."""


def train(network: nn.Module, task: Task, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
    """Trains the network in place, where its parameters are; it is left in evaluation mode.

    The same plan trains the same weights to the same result on the same machine, and torch's global random state is as
    before. A plan that begins later sees the very batches that an unbroken run would have seen from there, where they
    follow from the seed given to `task.batches` alone.

    Args:
        network: on any device; batches are moved there.
        task: its training batches and its loss are used.
        plan: how long, by which optimizer, at which rate and on batches of which size.
        hooks: called in their order at every event.

    Raises:
        TaskError: the plan cannot be followed.
        Diverged: a loss is NaN or infinite.
    """
    steps = count_steps(task, plan)
    device = device_of(network)
    optimizer = build_optimizer(network, plan)
    network.train()
    try:
        with seeded(plan.seed, device), arranged(network, plan.channels_last) as arrange:
            remaining = _remaining(task, plan, steps)
            for hook in hooks:
                hook.on_start(network, optimizer, steps)
            for step, epoch, last, batch in remaining:
                set_rate(optimizer, rate_at(plan, step, steps))
                moved = arrange(network_inputs(*batch).to(device)), batch[1].to(device)
                loss = _step(network, task, optimizer, moved, step, hooks)
                for hook in hooks:
                    hook.after_step(network, step, steps, loss)
                for hook in hooks if last else ():
                    hook.after_epoch(network, epoch)
                for hook in hooks:
                    hook.at_rest(network, step, steps)
    finally:
        optimizer.zero_grad()
        network.eval()


def count_steps(task: Task, plan: TrainingPlan) -> int:
    """Returns the number of a plan's last step: its own, or that of `epochs` passes, rounded up.

    Training batches without a length are counted by going through them once.

    Raises:
        TaskError: the plan begins after its last step.
    """
    steps = plan.steps
    if steps is None:
        batches = task.batches("train", plan.batch_size, plan.seed)
        length = len(batches) if isinstance(batches, Sized) else sum(1 for _ in batches)
        steps = math.ceil((plan.epochs or 1.0) * length - 1e-9)
    if plan.begin > steps:
        raise TaskError(f"training should begin after step {plan.begin}, but the plan has only {steps} steps")
    return steps


def _remaining(task: Task, plan: TrainingPlan, steps: int) -> Iterator[_Numbered]:
    """Yields what comes after the plan's first `begin` steps; of whole passes with a length no batch is made."""
    if plan.begin == 0:
        return _numbered(task, plan, steps)
    batches = task.batches("train", plan.batch_size, plan.seed)
    length = len(batches) if isinstance(batches, Sized) else 0
    epochs = plan.begin // length if length else 0
    remaining = _numbered(task, plan, steps, epochs * length, epochs)
    for _ in range(epochs * length, plan.begin):
        next(remaining)
    return remaining


def _numbered(task: Task, plan: TrainingPlan, steps: int, step: int = 0, epoch: int = 0) -> Iterator[_Numbered]:
    """Yields the steps after `step`, which ended pass `epoch`; every pass has an order of its own."""
    while step < steps:
        epoch += 1
        held: Batch | None = None
        for batch in task.batches("train", plan.batch_size, derive_seed(plan.seed, epoch)):
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
    """Takes one optimizer step and returns the loss before it, with the hooks' terms."""
    inputs, targets = batch
    outputs = call_network(network, inputs)
    loss = task.loss(outputs, targets)
    for hook in hooks:
        term = hook.loss_term(network, inputs, outputs)
        loss = loss if term is None else loss + term
    value = float(loss.detach())
    if not math.isfinite(value):
        raise Diverged(f"the training loss is {value} at step {step}; lower the rate, or check the training data")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for hook in hooks:
        hook.after_backward(network, step)
    optimizer.step()
    return value


def derive_seed(*parts: int) -> int:
    """Returns a seed for one use out of several numbers: (seed, epoch), say."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch's global generators; afterwards they are as before."""
    on_cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            torch.cuda.manual_seed(seed)
        yield


def device_of(network: nn.Module) -> torch.device:
    """Returns where the network's first parameter is (the CPU if it has none)."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
