"""The dense network under study, with everything that is learnt from it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.budget import Budget, Limits
from autoprune.core.costs import CostTable
from autoprune.core.space import SearchSpace, SpaceRules, build_space
from autoprune.errors import DataError
from autoprune.evaluation.scoring import ScoringImages
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.masks import Importance
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.structures import Structures
from autoprune.tasks.base import Task


@dataclass(frozen=True)
class Subject:
    """A dense network, its groups, costs and scores.

    Attributes:
        network: with its trained weights, in evaluation mode; never changed.
        inputs: `[2, …]` samples like those it was traced with.
        graph: its channels, whatever the pruner's pattern.
        structures: its groups under that pattern.
        importance: per group, scores of its structures by `pruner`.
        scoring: what was chosen to score them: pruner, criterion, how layers are combined, how many images were read.
    """

    network: nn.Module
    inputs: Tensor
    graph: ChannelGraph
    structures: Structures
    costs: CostTable
    pruner: Pruner
    importance: Importance
    scoring: Mapping[str, Any]

    def space(self, rules: SpaceRules) -> SearchSpace:
        return build_space(rules, self.structures.groups)

    def limits(self, budget: Budget) -> Limits:
        return budget.resolve(self.costs)


def study(
    network: nn.Module, inputs: Tensor, pruner: Pruner, images: ScoringImages | None = None, seed: int = 0
) -> Subject:
    """Finds groups, costs and scores of a network.

    Args:
        network: on the device where it will be judged.
        inputs: `[batch, …]` samples; the first two are used.
        images: what a criterion that reads data is given; any other leaves them unread.
        seed: of a criterion's random draws.

    Raises:
        TaskError: the network cannot be traced or run.
        UserError: the pruner needs images and there are none, or a score is not finite.
    """
    network.eval()
    inputs = inputs[:2]
    graph = find_groups(network, inputs)
    structures = pruner.structures(network, graph)
    costs = structures.cost_table(network, inputs)
    importance = pruner.scores(network, graph, images.source() if images else None, seed)
    read = images.describe() if images and pruner.criterion.reads_data else {"images": 0}
    drawn = {"seed": seed} if pruner.criterion.drawn else {}
    return Subject(
        network, inputs, graph, structures, costs, pruner, importance, {**pruner.describe(), **read, **drawn}
    )


def example_inputs(task: Task, device: torch.device) -> Tensor:
    """Two samples of the task's validation images."""
    for inputs, _ in task.batches("validation", 2):
        if len(inputs):
            return inputs[:2].to(device)
    raise DataError(f"task {task.name} has no validation images")
