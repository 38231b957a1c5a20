"""Criteria, and the statistics of a layer by which they score its structures."""

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
"""What a criterion uses beside the weights; "consumers": it scores by the layers that use channels."""

DATA: frozenset[Need] = frozenset({"activations", "gradients", "gates", "consumers"})
"""The needs for which samples are run through the network."""

PER_CHANNEL: frozenset[Need] = frozenset({"norm", "activations", "gates", "consumers"})
"""The needs that are known of whole output channels only."""


@dataclass(frozen=True)
class Activations:
    """Statistics of a layer's output channels behind their activation function, over all samples and positions.

    Attributes:
        nonzero: `[structures]` the share of values that are not zero.
        magnitude: `[structures]` the mean of absolute values.
    """

    nonzero: Tensor
    magnitude: Tensor


@dataclass(frozen=True)
class Gradients:
    """Means over batches of the gradient of the batch's loss with respect to each weight.

    Attributes:
        magnitude: of absolute gradients, of the weight's shape.
        square: of squared gradients, of the weight's shape.
    """

    magnitude: Tensor
    square: Tensor


@dataclass(frozen=True)
class LayerStatistics:
    """Statistics of one layer's structures; None where they are not needed, or the network has none.

    A structure may hold several rows of the layer, see `of_structures`. Those of a group in several layers are scored
    by each, and `Pruner.combine` says how the scores become one.

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

    def of_structures(self, rows: Tensor) -> LayerStatistics:
        """Gathers the statistics of a layer's channels into those of structures, which may hold several of them.

        A structure's weights and gradients are those of all its rows. Its activations and its scale are the means over
        its channels, and the squared derivatives by its channels' gates are summed, as Molchanov et al. 2019 sum over a
        set of parameters.

        Args:
            rows: `[structures, times]` the layer's rows, or channels, that belong to each structure: the rows of a head
                in a projection, those of all gates of a hidden unit.
        """
        rows = rows.to(self.weight.device)

        def joined(tensor: Tensor) -> Tensor:
            return tensor[rows].flatten(1)

        def mean(values: Tensor) -> Tensor:
            return values[rows].mean(1)

        seen, slopes = self.activations, self.gradients
        return replace(
            self,
            weight=joined(self.weight),
            scale=None if self.scale is None else mean(self.scale),
            activations=None if seen is None else Activations(mean(seen.nonzero), mean(seen.magnitude)),
            gradients=None if slopes is None else Gradients(joined(slopes.magnitude), joined(slopes.square)),
            gate=None if self.gate is None else self.gate[rows].sum(1),
        )

    def generator(self, use: str) -> np.random.Generator:
        """Returns a generator for one use: a function of the seed, the use and the layer alone."""
        return np.random.default_rng([self.seed, *f"{use} {self.layer}".encode()])


StatisticsFn = Callable[[Layer], LayerStatistics]
"""A layer to its statistics."""


@dataclass(frozen=True)
class Criterion:
    """A measure of how much structures matter.

    Attributes:
        score: statistics to `[structures]` scores of at least 0, higher is kept; None where it cannot score the layer.
        needs: what must be in the statistics beside the weights.
        drawn: whether the scores come from a random generator.
    """

    name: str
    score: Callable[[LayerStatistics], Tensor | None]
    needs: frozenset[Need] = frozenset()
    drawn: bool = False

    @property
    def description(self) -> str:
        """The first line of the score's docstring, which therefore says what the score is."""
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
    """Returns the criterion for a network that lost structures: those of zeros score 0 and are compared with nothing.

    Only criteria that go by weights alone compare structures with each other; any other stays as it is. (LASSO gives
    no coefficient to what contributes nothing.)
    """
    if criterion.needs or criterion.drawn:
        return criterion

    def score(statistics: LayerStatistics) -> Tensor | None:
        nonzero = statistics.weight.ne(0).any(1)
        scores = torch.zeros(len(nonzero), dtype=torch.float64, device=nonzero.device)
        if not bool(nonzero.any()):
            return scores
        found = criterion.score(replace(statistics, weight=statistics.weight[nonzero]))
        return None if found is None else scores.masked_scatter(nonzero, found.double())

    return replace(criterion, score=score)
