from __future__ import annotations

import torch

from autoprune.core.recipe import TrainingPlan
from autoprune.tasks.base import Hook, together
from tests.tasks.training.tasks import trained


def test_hooks_together_are_called_as_they_are_one_by_one() -> None:
    def hooks(into: list[object]) -> list[Hook]:
        def add(name: str, event: str) -> object:
            return lambda network, *values: into.append((name, event, *map(str, values[:1])))

        events = ("after_backward", "after_step", "after_epoch", "on_start", "at_rest")
        return [Hook(**{event: add(name, event) for event in events}) for name in "ab"]  # type: ignore[arg-type]

    apart: list[object] = []
    joined: list[object] = []
    trained(TrainingPlan(epochs=2), hooks(apart))
    trained(TrainingPlan(epochs=2), [together(hooks(joined))])
    assert joined == apart


def test_the_loss_term_of_hooks_together_is_the_sum_of_theirs() -> None:
    two, three, none = (
        Hook(loss_term=lambda *_, value=value: value) for value in (torch.tensor(2.0), torch.tensor(3.0), None)
    )
    arguments = torch.nn.ReLU(), torch.zeros(1), torch.zeros(1)
    assert together([two, none, three]).loss_term(*arguments) == 5
    assert together([none]).loss_term(*arguments) is None
    assert together([]).loss_term(*arguments) is None


def test_a_hook_acts_at_the_events_that_it_has_a_function_for() -> None:
    hook = Hook(after_step=lambda *_: None)
    assert hook.acts_at("after_step")
    assert not hook.acts_at("after_epoch")
