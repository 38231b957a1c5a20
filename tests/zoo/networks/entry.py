"""What a network of the matrix is: how it is built, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tests.zoo.networks.jostle import jostle, settle_statistics

Inputs = Any
"""What a network takes: a tuple of positional arguments, a dictionary of keywords, else its one argument."""

Draw = Callable[[int, torch.Generator], Inputs]
"""Draws inputs of so many samples."""


@dataclass(frozen=True)
class ZooNetwork:
    """A network by name.

    Attributes:
        name: `library/network`.
        make: builds it with random weights.
        draw: draws what it is called with in evaluation mode.
        draw_training: the same in training mode, where that takes targets; None: as in evaluation mode.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Draw
    draw_training: Draw | None = None

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Builds it in evaluation mode, the same at every call: seeded random weights, jostled."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = self.make().eval()
            jostle(network, seed=1)
            settle_statistics(network, lambda: call(network, self.inputs(8, seed=2)))
        return network.to(dtype)

    def inputs(self, samples: int, seed: int, dtype: torch.dtype = torch.float32, training: bool = False) -> Inputs:
        """Draws inputs of so many samples; floating-point ones are converted to `dtype`."""
        draw = self.draw_training if training and self.draw_training else self.draw
        drawn = draw(samples, torch.Generator().manual_seed(seed))
        return tree_map(
            lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, drawn
        )


def call(network: nn.Module, inputs: Inputs) -> Any:
    """Calls a network with what it takes."""
    if isinstance(inputs, tuple) and not hasattr(inputs, "_fields"):  # a packed sequence is one argument
        return network(*inputs)
    return network(**inputs) if isinstance(inputs, dict) else network(inputs)


def pictures(size: int | tuple[int, ...], channels: int = 3) -> Draw:
    """Draws images `[samples, channels, size, size]`, or of other axes of positions."""
    shape = (size, size) if isinstance(size, int) else size
    return lambda samples, rng: torch.randn(samples, channels, *shape, generator=rng)


def integers(shape: tuple[int, ...], below: int) -> Draw:
    """Draws integers `[samples, *shape]` from 0 on."""
    return lambda samples, rng: torch.randint(below, (samples, *shape), generator=rng)


def padding_mask(samples: int, length: int, rng: torch.Generator) -> Tensor:
    """Draws `[samples, length]` ones, followed by zeros from a position in the second half on."""
    lengths = torch.randint(length // 2, length + 1, (samples, 1), generator=rng)
    return (torch.arange(length) < lengths).long()
