"""The shape of what is removed: how a layer's weight falls into structures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from autoprune.graph.layers import Layer


@dataclass(frozen=True)
class Pattern:
    """How a weight falls into structures.

    Attributes:
        arrange: a layer and a tensor of its weight's shape (the weight, its gradient) to `[structures, …]`.
    """

    name: str
    arrange: Callable[[Layer, Tensor], Tensor]


def filters(layer: Layer, weight: Tensor) -> Tensor:
    """`[out, …]`: a layer's weight with one row for each output channel."""
    if layer.kind != "transposed":
        return weight
    per_group = weight.reshape(layer.groups, -1, *weight.shape[1:])  # [groups, in of a group, out of a group, …]
    return per_group.transpose(1, 2).flatten(0, 1)


FILTER = Pattern("filter", filters)
"""Whole output channels, with everything that uses them."""
