"""The one training loop; whatever else acts inside training is a hook."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import Diverged, TaskError
from autoprune.graph.inputs import ModelInputs, call_network, network_inputs
from autoprune.tasks.base import Batch, Hook, Task
from autoprune.tasks.training.computing import arranged, autocast, check_precision, gradients_on, trainable
from autoprune.tasks.training.optimizers import build_optimizer, build_scaler, rate_at, set_rate
from autoprune.tasks.training.passes import count_steps, derive_seed, remaining_steps, samples_of

__all__ = ["Forward", "check_loss", "count_steps", "derive_seed", "device_of", "seeded", "train"]

Forward = Callable[[nn.Module, Any, Any], tuple[Any, Tensor]]
"""`(network, inputs, targets)` of a batch to the network's outputs and the mean loss, a scalar `[]`."""


def train(
    network: nn.Module, task: Task, plan: TrainingPlan, hooks: Sequence[Hook] = (), forward: Forward | None = None
) -> None:
    """Trains the network in place, where its parameters are; it is left in evaluation mode.

    The same plan trains the same weights to the same result on the same machine, and torch's global random state is as
    before. A plan that begins later sees the very batches that an unbroken run would have seen from there, where they
    follow from the seed given to `task.batches` alone. Gradients are on, whatever the caller has switched off. Where
    the network takes statistics of batches, a rest of one sample is joined to the batch before it.

    Args:
        network: on any device; batches are moved there.
        task: its training batches and its loss are used.
        plan: how long, by which optimizer, at which rate and on batches of which size.
        hooks: called in their order at every event.
        forward: gives outputs and loss of a batch; None calls the network with the inputs, and then the task's loss.

    Raises:
        TaskError: the plan cannot be followed, or a loss is no scalar that depends on the network.
        Diverged: a loss is NaN or infinite.
    """
    device = device_of(network)
    check_precision(plan, network, device)
    with gradients_on(network):
        steps = count_steps(task, plan, network)
        optimizer = build_optimizer(network, plan)
        scaler = build_scaler(optimizer, plan, device)
        network.train()
        try:
            with seeded(plan.seed, device), arranged(network, plan.channels_last) as arrange:
                remaining = remaining_steps(task, plan, network, steps)
                for hook in hooks:
                    hook.on_start(network, optimizer, steps)
                loop = _Loop(network, plan, hooks, optimizer, scaler, forward or _forward_of(task), task.name)
                for step in remaining:
                    set_rate(optimizer, rate_at(plan, step.number, steps))
                    sizes = samples_of(step.batches) if len(step.batches) > 1 else [1]
                    loss = loop.step([_moved(batch, device, arrange) for batch in step.batches], sizes, step.number)
                    for hook in hooks:
                        hook.after_step(network, step.number, steps, loss)
                    for hook in hooks if step.ends_epoch else ():
                        hook.after_epoch(network, step.epoch)
                    for hook in hooks:
                        hook.at_rest(network, step.number, steps)
        finally:
            optimizer.zero_grad()
            network.eval()


def _forward_of(task: Task) -> Forward:
    def forward(network: nn.Module, inputs: Any, targets: Any) -> tuple[Any, Tensor]:
        outputs = call_network(network, inputs)
        return outputs, task.loss(outputs, targets)

    return forward


def _moved(
    batch: Batch, device: torch.device, arrange: Callable[[Tensor | ModelInputs], Tensor | ModelInputs]
) -> Batch:
    inputs, targets = trainable(ModelInputs((network_inputs(*batch), batch[1])).to(device)).args
    return arrange(inputs), targets


@dataclass(frozen=True)
class _Loop:
    """What all steps of a training share."""

    network: nn.Module
    plan: TrainingPlan
    hooks: Sequence[Hook]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    forward: Forward
    task: str

    def step(self, batches: Sequence[Batch], sizes: Sequence[int], number: int) -> float:
        """Takes one optimizer step and returns the loss before it, with the hooks' terms.

        Args:
            batches: whose gradients are averaged by their samples.
            sizes: samples of each.
            number: of the step.
        """
        self.optimizer.zero_grad()
        total = 0.0
        for batch, size in zip(batches, sizes, strict=True):
            loss = self._loss(batch)
            share = size / sum(sizes)
            total += share * float(loss.detach())
            if not math.isfinite(total):
                raise Diverged(
                    f"the training loss is {total} at step {number}; lower the rate, or check the training data"
                )
            scaled = self.scaler.scale(loss if len(batches) == 1 else share * loss)
            scaled.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.scaler.unscale_(self.optimizer)
        for hook in self.hooks:
            hook.after_backward(self.network, number)
        if self.plan.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip_norm)
        self.scaler.step(self.optimizer)  # not taken where fp16 gradients have overflowed
        self.scaler.update()
        return total

    def _loss(self, batch: Batch) -> Tensor:
        inputs, targets = batch
        with autocast(self.plan, device_of(self.network)):
            outputs, loss = self.forward(self.network, inputs, targets)
            check_loss(loss, f"the loss of task {self.task!r}")
            for hook in self.hooks:
                term = hook.loss_term(self.network, inputs, outputs)
                if term is not None:
                    check_loss(term, "a hook's loss term", needs_gradient=False)
                    loss = loss + term
        return loss


def check_loss(loss: object, what: str, needs_gradient: bool = True) -> None:
    """Checks that a training can go by a loss.

    Args:
        loss: of a batch.
        what: it is called in the message.
        needs_gradient: whether it has to depend on parameters.

    Raises:
        TaskError: it is no scalar tensor, or depends on no parameter.
    """
    if not isinstance(loss, Tensor):
        raise TaskError(f"{what} should be a scalar tensor, the mean over a batch, but is a {type(loss).__name__}")
    if loss.dim():
        raise TaskError(
            f"{what} should be a scalar, the mean over a batch, but has shape {list(loss.shape)}; "
            "return loss.mean(), or leave out reduction='none'"
        )
    if needs_gradient and not loss.requires_grad:
        raise TaskError(
            f"{what} does not depend on the network's parameters, so that nothing can be learnt by it; "
            "compute it from the outputs without .detach(), .item() or torch.no_grad()"
        )


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
