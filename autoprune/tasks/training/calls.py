"""Checks that a task's own training calls the hooks on which something hangs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.base import Hook, Task
from autoprune.tasks.training.computing import gradients_on

_NEEDED = {
    "loss_term": "loss_term(network, inputs, outputs) for each batch, and add what it returns to the loss",
    "after_step": "after_step(network, step, steps, loss) after each step of the optimizer",
    "after_epoch": "after_epoch(network, epoch) after each pass over the training samples",
}


def train_with_hooks(
    task: Task, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook], watching: Sequence[Hook] = ()
) -> None:
    """Trains the network in place by the task's own `train`, with gradients on.

    Args:
        task: whose loop may be the user's.
        network: on any device.
        plan: how long, at which rate and on batches of which size.
        hooks: that training is not what it should be without: masks, penalties, distillation.
        watching: hooks that only look, such as progress; called after the others.

    Raises:
        TaskError: the task's loop has not called an event at which one of `hooks` acts.
    """
    called: set[str] = set()

    def note(event: str) -> Callable[..., None]:
        def call(*_: object) -> None:
            called.add(event)

        return call

    witness = Hook(**{event: note(event) for event in _NEEDED})
    with gradients_on(network):
        task.train(network, plan, [*hooks, *watching, witness])
    needed = {event for event in _NEEDED if any(hook.acts_at(event) for hook in hooks)}
    if plan.epochs is None or plan.epochs < 1 or plan.begin:
        needed.discard("after_epoch")  # no pass may have ended
    missing = [event for event in _NEEDED if event in needed - called]
    if missing and plan.begin != plan.steps:
        raise TaskError(
            f"the training of task {task.name!r} is a loop of its own that never calls {', '.join(missing)} of its "
            f"hooks, on which masks, penalties or distillation hang here; call hook.{_NEEDED[missing[0]]}, "
            "for every hook (docs/training.md has such a loop)"
        )
