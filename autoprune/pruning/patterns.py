"""Patterns: how a layer's weight falls into structures, the shapes that are removed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from autoprune import registry
from autoprune.errors import PluginError, UserError
from autoprune.graph.layers import Layer

Arrange = Callable[[Layer, Tensor], Tensor]
"""A layer and a tensor of its weight's shape (the weight, its gradient) to `[choices, width, entries]`."""


@dataclass(frozen=True)
class Pattern:
    """How a weight falls into structures.

    Attributes:
        arrange: the layer's weight as `[choices, width, entries]`: of the `width` structures of every choice, each of
            `entries` weights, equally many are kept. There is one choice for the whole layer, except with N:M. Entries
            that fill no whole structure are left out: they stay.
        description: one line.
        coupled: whether a structure is a whole output channel, which goes with everything that uses it, so that the
            network can be thinned; the weights of any other pattern are set to zero.
        whole: whether a structure is a residual branch with all its layers, which goes through its shortcut.
        least: structures that stay of every choice at the very least.
        grain: kept widths are multiples of it.
        depth: whether residual branches of channels may be removed as well.
        equal: patterns of groups of channels that are made equally wide, see `SpaceRules`.
    """

    name: str
    arrange: Arrange
    description: str
    coupled: bool = False
    whole: bool = False
    least: int = 1
    grain: int = 1
    depth: bool = False
    equal: tuple[str, ...] = ()

    @property
    def thins(self) -> bool:
        """Whether what goes is removed from the network; otherwise weights are set to zero and all shapes stay."""
        return self.coupled or self.whole


def filters(layer: Layer, weight: Tensor) -> Tensor:
    """Returns a layer's weight with one row for each output channel, `[out, in of a group, …]`."""
    if layer.kind == "experts":
        return weight.transpose(0, 1)
    if layer.kind not in ("transposed", "embedding"):
        return weight
    per_group = weight.reshape(layer.groups, -1, *weight.shape[1:])  # [groups, in of a group, out of a group, …]
    return per_group.transpose(1, 2).flatten(0, 1)


def _by_filter(layer: Layer, weight: Tensor) -> Tensor:
    return filters(layer, weight).flatten(1)[None]


def _by_element(layer: Layer, weight: Tensor) -> Tensor:
    return filters(layer, weight).reshape(1, -1, 1)


def _by_kernel(layer: Layer, weight: Tensor) -> Tensor:
    rows = filters(layer, weight)
    return rows.reshape(1, rows.shape[0] * rows.shape[1], -1)


def _whole(layer: Layer, weight: Tensor) -> Tensor:
    return weight.reshape(1, 1, -1)


def _by_channel(layer: Layer, weight: Tensor) -> Tensor:
    """Returns `[1, in, …]`: a convolution's groups see different channels."""
    rows = filters(layer, weight)
    per_group = rows.reshape(layer.groups, -1, *rows.shape[1:])
    return per_group.transpose(1, 2).flatten(0, 1).flatten(1)[None]


def _by_column(layer: Layer, weight: Tensor) -> Tensor:
    """Returns `[1, groups · in of a group · positions, out of a group]`."""
    rows = filters(layer, weight).flatten(1)
    return rows.reshape(layer.groups, -1, rows.shape[1]).transpose(1, 2).flatten(0, 1)[None]


def _by_block(shape: tuple[int, int, int, int], layer: Layer, weight: Tensor) -> Tensor:
    """Returns `[1, blocks, entries]`, blocks in the order of filter, channel, row and column of their first entry."""
    height, width, depth, out = shape
    rows = filters(layer, weight)
    size = (*rows.shape[:2], *((1,) * (4 - rows.dim())), *rows.shape[2:])
    if len(size) > 4:
        raise UserError(
            f"layer {layer.name!r} has a weight of {rows.dim()} axes; blocks are of convolutions of one or two "
            "dimensions and of linear layers"
        )
    blocks = rows.reshape(size)
    for axis, edge in enumerate((out, depth, height, width)):
        count = size[axis] // edge
        before, behind = blocks.shape[: 2 * axis], blocks.shape[2 * axis + 1 :]
        blocks = blocks.narrow(2 * axis, 0, count * edge).reshape(*before, count, edge, *behind)
    # [filters, out, channels, depth, rows, height, columns, width]
    order = blocks.permute(0, 2, 4, 6, 1, 3, 5, 7)
    return order.reshape(1, math.prod(order.shape[:4]), out * depth * height * width)


def _n_of_m(m: int, layer: Layer, weight: Tensor) -> Tensor:
    """Returns `[vectors, m, 1]`: runs of m neighbouring input channels at one position of one filter."""
    rows = filters(layer, weight)
    channels_last = rows.movedim(1, -1)
    whole = channels_last.shape[-1] // m * m
    return channels_last[..., :whole].reshape(-1, m, 1)


FILTER = Pattern("filter", _by_filter, "output channels, with everything that uses them", coupled=True)
ELEMENT = Pattern("element", _by_element, "single weights")
KERNEL = Pattern("kernel", _by_kernel, "of a convolution, what one filter takes from one input channel (2-d)")
CHANNEL = Pattern("channel", _by_channel, "what all filters of a layer take from one input channel")
ROW = Pattern("row", _by_filter, "rows of the weight matrix: all that makes one output, in this layer alone")
COLUMN = Pattern("column", _by_column, "columns of the weight matrix: one input position in all filters (filter shape)")
LAYER = Pattern("layer", _whole, "whole layers: residual branches that go through their shortcut", whole=True, least=0)


def with_depth(pattern: Pattern) -> Pattern:
    """Returns the pattern of channels with residual branches that may be removed as well.

    Raises:
        UserError: the pattern is of something else than channels.
    """
    _check_coupled(pattern, "depth removes residual branches", "; branches alone are removed by pattern 'layer'")
    return replace(pattern, depth=True)


def with_equal(pattern: Pattern, equal: tuple[str, ...]) -> Pattern:
    """Returns the pattern of channels with groups that are made equally wide.

    Args:
        pattern: of channels.
        equal: patterns of these groups.

    Raises:
        UserError: the pattern is of something else than channels.
    """
    _check_coupled(pattern, "equal makes groups equally wide")
    return replace(pattern, equal=equal)


def _check_coupled(pattern: Pattern, purpose: str, otherwise: str = "") -> None:
    if not pattern.coupled:
        raise UserError(
            f"space.{purpose} where channels are pruned, but the structures are those of pattern "
            f"{pattern.name!r} ({pattern.description}): leave it out, or choose pattern 'filter' (--pruner l1_filter, "
            f"say){otherwise}"
        )


def block(height: int, width: int, depth: int, out: int = 1) -> Pattern:
    """Returns the pattern of equal blocks of a weight.

    Args:
        height: kernel positions.
        width: kernel positions.
        depth: neighbouring input channels.
        out: neighbouring filters.
    """
    shape = (height, width, depth, out)
    name = "block_" + "x".join(map(str, shape if out > 1 else shape[:3]))
    text = f"blocks of {height}×{width} kernel positions and {depth} input channels"
    return Pattern(name, partial(_by_block, shape), text if out == 1 else f"{text} in {out} filters")


def n_of_m(n: int, m: int) -> Pattern:
    """Returns the pattern that keeps `n` of every `m` neighbouring input channels, at every position of every filter.

    Source: Mishra et al. 2021, arXiv:2104.08378, section 3 (2:4).
    """
    grain = n if m % n == 0 else 1
    text = f"of every {m} neighbouring input channels {n} weights stay"
    return Pattern(f"{n}:{m}", partial(_n_of_m, m), text, least=n, grain=grain)


BLOCK_1X1X8 = block(1, 1, 8)
TWO_FOUR = n_of_m(2, 4)


def parse_pattern(text: str) -> Pattern:
    """Returns a pattern by its name: of the table, `block_HEIGHTxWIDTHxDEPTH[xFILTERS]`, `N:M`, or the user's own.

    Raises:
        UnknownName: there is none of that name.
        PluginError: the user's own cannot be imported, is no pattern, or is one of whole channels or branches.
    """
    if shape := registry.block_shape(text):
        return block(*shape)
    if numbers := registry.n_and_m(text):
        return n_of_m(*numbers)
    pattern: Pattern = registry.resolve("pattern", text)
    if registry.is_own("pattern", text) and pattern.thins:
        raise PluginError(
            f"pattern {text!r} is of whole channels or branches, of which there is one each; choose 'filter' or 'layer'"
        )
    return pattern
