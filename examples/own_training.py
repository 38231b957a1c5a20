"""A training loop of your own as the training of a task: masks, penalties, distillation and progress act inside it."""

from collections.abc import Sequence
from dataclasses import replace

import my_task
import torch
from torch import nn

import autoprune
from autoprune.tasks.base import together
from autoprune.tasks.training.passes import count_steps, remaining_steps


def train(
    network: nn.Module, task: autoprune.Task, plan: autoprune.TrainingPlan, hooks: Sequence[autoprune.Hook] = ()
) -> None:
    """Trains the network in place by Adam, with label smoothing."""
    steps, hook = count_steps(task, plan, network), together(hooks)
    optimizer = torch.optim.Adam(network.parameters(), lr=plan.rate)
    network.train()
    hook.on_start(network, optimizer, steps)
    for step in remaining_steps(task, plan, network, steps):  # or batches of your own, numbered from plan.begin + 1
        for inputs, targets in step.batches:  # several where the plan accumulates
            outputs = network(inputs)
            loss = nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)
            term = hook.loss_term(network, inputs, outputs)
            loss = loss if term is None else loss + term
            (loss / len(step.batches)).backward()
        optimizer.step()
        optimizer.zero_grad()
        hook.after_step(network, step.number, steps, loss.item())
        if step.ends_epoch:
            hook.after_epoch(network, step.epoch)
        hook.at_rest(network, step.number, steps)
    network.eval()


task = replace(my_task.task, training=train)

if __name__ == "__main__":
    torch.manual_seed(0)
    model = my_task.network()
    task.train(model, autoprune.TrainingPlan(epochs=4, rate=0.003))
    finetune = {"steps": 20, "rate": 0.001, "distill": 0.5}
    found = autoprune.search(
        model, task, "flops=0.5", trials=5, output="run", track__enabled=False, evaluation__finetune=finetune
    )
    print(found.allocation)
