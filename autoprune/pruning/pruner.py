"""Pruners: criterion × pattern × schedule, composed; and the table of named ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.graph.groups import ChannelGraph, ChannelGroup
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.norms import l1_norm, l2_norm
from autoprune.pruning.masks import Importance

Criterion = Callable[[Tensor], Tensor]
"""`[structures, …]` weights to `[structures]` scores, higher is kept."""


@dataclass(frozen=True)
class Pruner:
    """What is removed, and by which score.

    Attributes:
        pattern: `filter`: whole output channels, with everything that uses them.
        schedule: `one_shot`: all at once.
        combine: how the scores of layers that share a group become one: their mean or sum.
        normalise: whether each layer's scores are divided by their mean first, so that a layer with large weights
            does not decide for the others.
    """

    name: str
    criterion: Criterion
    pattern: Literal["filter"] = "filter"
    schedule: Literal["one_shot"] = "one_shot"
    combine: Literal["mean", "sum"] = "mean"
    normalise: bool = True

    def scores(self, network: nn.Module, graph: ChannelGraph) -> Importance:
        """Scores of every structure of every group of the network, by the network's present weights."""
        layers = {layer.name: layer for layer in graph.layers}
        return {group.name: self._group_scores(network, group, layers) for group in graph.groups}

    def _group_scores(self, network: nn.Module, group: ChannelGroup, layers: dict[str, Layer]) -> NDArray[np.float64]:
        parts = []
        for member in group.members:
            if member.side != "out":
                continue
            weight: Tensor = network.get_submodule(member.layer).weight  # type: ignore[assignment]
            channels = self.criterion(filters(layers[member.layer], weight.detach().double()))
            # A structure that holds several channels of a layer (across a convolution's groups) scores their sum.
            part = channels[member.rows.to(channels.device)].sum(1)
            parts.append(part / part.mean().clamp_min(torch.finfo(part.dtype).tiny) if self.normalise else part)
        total = torch.stack(parts).sum(0) / (len(parts) if self.combine == "mean" else 1)
        scores: NDArray[np.float64] = total.cpu().numpy()
        return scores


def filters(layer: Layer, weight: Tensor) -> Tensor:
    """`[out, …]`: a layer's weight with one row for each output channel."""
    if layer.kind != "transposed":
        return weight
    per_group = weight.reshape(layer.groups, -1, *weight.shape[1:])  # [groups, in of a group, out of a group, …]
    return per_group.transpose(1, 2).flatten(0, 1)


L1_FILTER = Pruner("l1_filter", l1_norm)
L2_FILTER = Pruner("l2_filter", l2_norm)
