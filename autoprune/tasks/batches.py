"""Labelled images held in memory as bytes, and batches of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.tasks.base import Batch


@dataclass(frozen=True)
class Images:
    """`[n, channels, rows, columns]` pixels (uint8) and `[n]` labels (int64)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, begin: int, end: int) -> Images:
        return Images(self.pixels[begin:end], self.labels[begin:end])


@dataclass(frozen=True)
class Augmentation:
    """A random crop out of the image with `padding` black pixels on every side, mirrored half of the time if `flip`."""

    padding: int
    flip: bool = False


@dataclass(frozen=True)
class Draws:
    """What chance decides of each image: its crop's top row and left column, and whether it is mirrored; `[n]` each."""

    top: Tensor
    left: Tensor
    mirrored: Tensor

    def of(self, chosen: Tensor) -> Draws:
        return Draws(self.top[chosen], self.left[chosen], self.mirrored[chosen])


@dataclass(frozen=True)
class ImageBatches:
    """Normalised batches of `batch_size`, anew from the start at each iteration.

    Without a seed the images come as they are and in order. With one they are shuffled and augmented; which image comes
    when and how depends on the seed alone, not on the size.

    Attributes:
        normalise: uint8 pixels to the network's inputs.
    """

    images: Images
    normalise: Callable[[Tensor], Tensor]
    batch_size: int
    augmentation: Augmentation | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self._in_order() if self.seed is None else self._shuffled(self.seed)

    def _in_order(self) -> Iterator[Batch]:
        for begin in range(0, len(self.images), self.batch_size):
            part = self.images.part(begin, begin + self.batch_size)
            yield self.normalise(part.pixels), part.labels

    def _shuffled(self, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.images), generator=generator)
        draws = draw(self.augmentation, len(self.images), generator) if self.augmentation else None
        for chosen in torch.split(order, self.batch_size):
            pixels = self.images.pixels[chosen]
            if self.augmentation and draws:
                pixels = crop(pixels, self.augmentation.padding, draws.of(chosen))
            yield self.normalise(pixels), self.images.labels[chosen]


def draw(augmentation: Augmentation, count: int, generator: torch.Generator) -> Draws:
    """Returns the draws of `count` images."""
    places = 2 * augmentation.padding + 1
    top, left = torch.randint(places, (2, count), generator=generator)
    mirrored = torch.rand(count, generator=generator) < (0.5 if augmentation.flip else 0.0)
    return Draws(top, left, mirrored)


def crop(pixels: Tensor, padding: int, draws: Draws) -> Tensor:
    """Returns `[n, channels, rows, columns]` crops of the images with a black frame of `padding`."""
    count, _, height, width = pixels.shape
    framed = torch.nn.functional.pad(pixels, (padding,) * 4)
    rows = draws.top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(count, width)
    columns = draws.left[:, None] + torch.where(draws.mirrored[:, None], width - 1 - columns, columns)
    index = rows[:, :, None] * framed.shape[3] + columns[:, None, :]
    flat = framed.flatten(2)
    return flat.gather(2, index.flatten(1)[:, None].expand(-1, flat.shape[1], -1)).view(pixels.shape)


class Normalisation:
    """From uint8 pixels to `(pixel / white - mean) / deviation`, per channel, in single precision."""

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...], white: float = 255.0) -> None:
        self._scale = 1.0 / (white * torch.tensor(deviation).view(1, -1, 1, 1))
        self._shift = torch.tensor(mean).view(1, -1, 1, 1) * white * self._scale

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.float().mul_(self._scale).sub_(self._shift)
