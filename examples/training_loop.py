"""Gradual pruning in a training loop of your own: 80 % of the weights are zero after four epochs."""

import torch
from my_task import network, task
from torch import nn

import autoprune

torch.manual_seed(0)
model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
inputs, _ = next(iter(task.batches("validation", 2)))
timing = autoprune.Timing(start=1, end=4, frequency=1, unit="epoch")
pruning = autoprune.Pruning(model, "agp", 0.8, inputs=inputs, timing=timing)

for epoch in range(6):
    model.train()
    for inputs, targets in task.batches("train", 64, epoch):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruning.step()  # keeps what is pruned at zero
    pruning.epoch()  # prunes further, when it is time

masks = pruning.finish()
print({name: round(1 - mask.float().mean().item(), 2) for name, mask in masks.items()})
