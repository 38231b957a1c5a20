"""A search in Python with the network at hand, and the smaller network three ways."""

import torch
from my_task import network, task

import autoprune

torch.manual_seed(0)
model = network()
task.train(model, autoprune.TrainingPlan(epochs=8, rate=0.1))  # or load your weights

result = autoprune.search(model, task, budget="flops=0.5", trials=10, output="search", track__enabled=False)
print(result.allocation)  # group to kept width
for row in result.results:
    print(f"{row.name:8} {row.validation.metrics['accuracy']:.2%} at {row.costs['flops']:,} FLOPs")

small = result.network  # ready to run; `model` is unchanged
again = autoprune.apply(model, result.allocation, task)  # from the allocation alone
loaded = autoprune.load(f"search/weights/{result.best}.pt", model=network)  # from a file
x = torch.ones(1, 1, 8, 8)
torch.testing.assert_close(again(x), small(x))
torch.testing.assert_close(loaded(x), small(x))
