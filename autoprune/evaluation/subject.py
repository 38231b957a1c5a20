"""The dense network under study, with everything that is learnt from it once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.core.budget import Budget, Limits
from autoprune.core.costs import CostTable
from autoprune.core.space import SearchSpace, SpaceRules, build_space
from autoprune.errors import DataError
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.graph.profile import build_cost_table
from autoprune.pruning.masks import Importance
from autoprune.pruning.pruner import Pruner
from autoprune.tasks.base import Task


@dataclass(frozen=True)
class Subject:
    """A dense network, its groups, costs and scores.

    Attributes:
        network: with its trained weights, in evaluation mode; never changed.
        inputs: `[2, …]` samples like those it was traced with.
        importance: per group, scores of its structures by `pruner`.
    """

    network: nn.Module
    inputs: Tensor
    graph: ChannelGraph
    costs: CostTable
    pruner: Pruner
    importance: Importance

    def space(self, rules: SpaceRules) -> SearchSpace:
        return build_space(rules, [group.group for group in self.graph.groups])

    def limits(self, budget: Budget) -> Limits:
        return budget.resolve(self.costs)


def study(network: nn.Module, inputs: Tensor, pruner: Pruner) -> Subject:
    """Finds groups, costs and scores of a network.

    Args:
        network: on the device where it will be judged.
        inputs: `[batch, …]` samples; the first two are used.

    Raises:
        TaskError: the network cannot be traced or run.
    """
    network.eval()
    inputs = inputs[:2]
    graph = find_groups(network, inputs)
    costs = build_cost_table(network, graph, inputs)
    return Subject(network, inputs, graph, costs, pruner, pruner.scores(network, graph))


def example_inputs(task: Task, device: torch.device) -> Tensor:
    """Two samples of the task's validation images."""
    for inputs, _ in task.batches("validation", 2):
        if len(inputs):
            return inputs[:2].to(device)
    raise DataError(f"task {task.name} has no validation images")
