from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.base import Hook, Task
from autoprune.tasks.training.calls import train_with_hooks
from tests.tasks.training.tasks import network, task_of

PLAN = TrainingPlan(epochs=2.0, rate=0.01)
Loop = Callable[[nn.Module, Task, TrainingPlan, Sequence[Hook]], None]


def _calling(*events: str) -> Loop:
    """A loop of the user's that calls some events of the hooks."""
    arguments = {
        "loss_term": lambda network: (network, torch.zeros(4, 3), torch.zeros(4, 2)),
        "after_step": lambda network: (network, 1, 1, 0.5),
        "after_epoch": lambda network: (network, 1),
    }

    def loop(network: nn.Module, task: Task, plan: TrainingPlan, hooks: Sequence[Hook]) -> None:
        for event in events:
            for hook in hooks:
                getattr(hook, event)(*arguments[event](network))

    return loop


HOLD = Hook(after_step=lambda *_: None)
PENALTY = Hook(loss_term=lambda *_: torch.tensor(0.0))
RECORD = Hook(after_epoch=lambda *_: None)


@pytest.mark.parametrize(
    ("loop", "hooks", "missing"),
    [
        (_calling(), [HOLD], r"never calls after_step of its hooks, .* call hook\.after_step\(network, step, steps"),
        (_calling("after_step"), [HOLD, PENALTY], "never calls loss_term of its"),
        (_calling("loss_term"), [HOLD, PENALTY, RECORD], "never calls after_step, after_epoch of its"),
    ],
)
def test_a_loop_that_leaves_out_what_hooks_need_is_refused(loop: Loop, hooks: list[Hook], missing: str) -> None:
    with pytest.raises(TaskError, match=missing):
        train_with_hooks(task_of(training=loop), network(), PLAN, hooks)


@pytest.mark.parametrize(
    ("loop", "hooks", "plan"),
    [
        (_calling(), [Hook(), Hook(on_start=lambda *_: None, at_rest=lambda *_: None)], PLAN),
        (_calling("after_step"), [HOLD, RECORD], TrainingPlan(epochs=0.5)),
        (_calling(), [HOLD], TrainingPlan(steps=3, begin=3)),
    ],
)
def test_what_no_hook_needs_may_be_left_out(loop: Loop, hooks: list[Hook], plan: TrainingPlan) -> None:
    train_with_hooks(task_of(training=loop), network(), plan, hooks, [HOLD, PENALTY])


def test_hooks_and_those_that_watch_are_called_by_the_loop() -> None:
    seen: list[str] = []
    hooks = [Hook(after_step=lambda *_, name=name: seen.append(name)) for name in ("first", "second")]
    train_with_hooks(task_of(), network(), TrainingPlan(steps=1), hooks[:1], hooks[1:])
    assert seen == ["first", "second"]
