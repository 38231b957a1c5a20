"""What a criterion is, and what it may know of the layer it scores."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autoprune.graph.layers import Layer

Need = Literal["norm", "activations", "gradients", "gates", "consumers"]
"""What a criterion uses beside the weights; "consumers": it asks the layers that use channels, not their makers."""

DATA: frozenset[Need] = frozenset({"activations", "gradients", "gates", "consumers"})
"""The needs for which samples are run through the network."""

PER_CHANNEL: frozenset[Need] = frozenset({"norm", "activations", "gates", "consumers"})
"""The needs that say something of whole output channels only."""


@dataclass(frozen=True)
class Activations:
    """What was seen of a layer's output channels behind their activation function, over all samples and positions.

    Attributes:
        nonzero: `[structures]` the share of values that are not zero.
        magnitude: `[structures]` the mean of absolute values.
    """

    nonzero: Tensor
    magnitude: Tensor


@dataclass(frozen=True)
class Gradients:
    """Means over batches of what the gradient of the batch's loss with respect to a weight was.

    Attributes:
        magnitude: of absolute gradients, of the weight's shape.
        square: of squared gradients, of the weight's shape.
    """

    magnitude: Tensor
    square: Tensor


@dataclass(frozen=True)
class LayerStatistics:
    """What is known of one layer's structures; None where it is not needed, or the network does not tell.

    Attributes:
        layer: the layer's name.
        weight: `[structures, entries]`, in double precision.
        scale: `[structures]` the absolute scale in the batch norm that follows.
        gradients: its tensors are `[structures, entries]` like the weight.
        gate: `[structures]` means over batches of the squared derivative of the loss by a factor on each channel,
            behind the batch norm that follows, else behind the layer.
        deviation: standard deviation of all the layer's weights.
        contributions: `[structures, structures]` inner products of what each structure contributes to the output of a
            layer that uses it; layer and weight are then that layer's, by structures of its input.
        seed: of the run.
    """

    layer: str
    weight: Tensor
    scale: Tensor | None = None
    activations: Activations | None = None
    gradients: Gradients | None = None
    gate: Tensor | None = None
    deviation: float = 0.0
    contributions: Tensor | None = None
    seed: int = 0

    def generator(self, use: str) -> np.random.Generator:
        """Random draws for one use: a function of the seed, the use and the layer alone."""
        return np.random.default_rng([self.seed, *f"{use} {self.layer}".encode()])


StatisticsFn = Callable[[Layer], LayerStatistics]
"""What is known of a layer."""


@dataclass(frozen=True)
class Criterion:
    """Which structures matter.

    Attributes:
        score: statistics to `[structures]` scores of at least 0, higher is kept; None where there is nothing to go by.
        needs: what must be in the statistics beside the weights.
        drawn: whether the scores come from a random generator.
    """

    name: str
    score: Callable[[LayerStatistics], Tensor | None]
    needs: frozenset[Need] = frozenset()
    drawn: bool = False

    @property
    def description(self) -> str:
        """The first line of what is written on its score."""
        return (inspect.getdoc(self.score) or "").partition("\n")[0]

    @property
    def per_channel(self) -> bool:
        """Whether it can score whole output channels only."""
        return bool(self.needs & PER_CHANNEL)

    @property
    def reads_data(self) -> bool:
        """Whether samples must be run through the network."""
        return bool(self.needs & DATA)


def among_nonzero(criterion: Criterion) -> Criterion:
    """The criterion as asked of a network that lost structures: all zeros score 0 and are compared with nothing.

    Only criteria that go by weights alone compare structures with each other; any other stays as it is. (LASSO gives
    no coefficient to what contributes nothing.)
    """
    if criterion.needs or criterion.drawn:
        return criterion

    def score(statistics: LayerStatistics) -> Tensor | None:
        there = statistics.weight.ne(0).any(1)
        scores = torch.zeros(len(there), dtype=torch.float64, device=there.device)
        if not bool(there.any()):
            return scores
        found = criterion.score(replace(statistics, weight=statistics.weight[there]))
        return None if found is None else scores.masked_scatter(there, found.double())

    return replace(criterion, score=score)
