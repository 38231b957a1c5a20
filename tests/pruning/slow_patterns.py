"""Every pattern once more, by nested loops over filters, input channels and kernel positions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from torch import Tensor, nn

Index = tuple[int, ...]
"""An index into a layer's weight as torch stores it."""

Structure = list[Index]


class Weight:
    """A layer's weight, read by (output channel, input channel of its group, kernel position)."""

    def __init__(self, module: nn.Module) -> None:
        tensor: Tensor = module.weight
        self.groups = getattr(module, "groups", 1)
        self.transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
        first, second, *kernel = tensor.shape
        self.kernel = tuple(kernel)
        self.out = second * self.groups if self.transposed else first
        self.inner = first // self.groups if self.transposed else second

    def index(self, out: int, channel: int, position: Index) -> Index:
        if not self.transposed:
            return (out, channel, *position)
        group, within = divmod(out, self.out // self.groups)
        return (group * self.inner + channel, within, *position)

    def positions(self) -> Iterator[Index]:
        return product(*(range(size) for size in self.kernel))

    def group_of(self, out: int) -> int:
        return out // (self.out // self.groups)


def structures(pattern: str, module: nn.Module) -> list[list[Structure]]:
    """By choice, the structures in their order, each as the indices of its weights (in no order)."""
    weight = Weight(module)
    if ":" in pattern:
        return _runs(weight, int(pattern.split(":")[1]))
    if pattern.startswith("block_"):
        return [_blocks(weight, *[int(size) for size in pattern.removeprefix("block_").split("x")])]
    found: dict[tuple[object, ...], Structure] = {}
    for out, channel in product(range(weight.out), range(weight.inner)):
        for position in weight.positions():
            key = {
                "filter": (out,),
                "row": (out,),
                "layer": (),
                "element": (out, channel, position),
                "kernel": (out, channel),
                "channel": (weight.group_of(out), channel),
                "column": (weight.group_of(out), channel, position),
            }[pattern]
            found.setdefault(key, []).append(weight.index(out, channel, position))
    return [[found[key] for key in sorted(found)]]


def _runs(weight: Weight, m: int) -> list[list[Structure]]:
    """Runs of m input channels; single weights in each."""
    return [
        [[weight.index(out, first + i, position)] for i in range(m)]
        for out in range(weight.out)
        for position in weight.positions()
        for first in range(0, weight.inner - m + 1, m)
    ]


def _blocks(weight: Weight, height: int, width: int, depth: int, out: int = 1) -> list[Structure]:
    rows, columns = (1, 1, *weight.kernel)[-2:]
    found = []
    for o, c in product(range(0, weight.out - out + 1, out), range(0, weight.inner - depth + 1, depth)):
        for y, x in product(range(0, rows - height + 1, height), range(0, columns - width + 1, width)):
            block = []
            for i, j, k, n in product(range(out), range(depth), range(height), range(width)):
                position = (y + k, x + n)[2 - len(weight.kernel) :] if weight.kernel else ()
                block.append(weight.index(o + i, c + j, position))
            found.append(block)
    return found
