"""Labelled images held in memory as bytes, batches of them, and the task of telling what they show."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.tasks.base import Batch, Hook, Split
from autoprune.tasks.loading.drawing import stratified_order
from autoprune.tasks.metrics import ACCURACY, Metric
from autoprune.tasks.models.named import ModelChoice, named_model
from autoprune.tasks.training.loop import train


@dataclass(frozen=True)
class Images:
    """`[n, channels, rows, columns]` pixels (uint8) and `[n]` labels (int64)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, begin: int, end: int) -> Images:
        """Returns the images from `begin` up to and without `end`, counted from 0."""
        return Images(self.pixels[begin:end], self.labels[begin:end])


@dataclass(frozen=True)
class Augmentation:
    """A random crop out of the image with `padding` black pixels on every side, mirrored half of the time if `flip`."""

    padding: int
    flip: bool = False

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Returns `[3, count]` draws: the top row and left column of each image's crop, and whether it is mirrored."""
        top, left = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        return torch.stack((top, left, mirrored))

    def apply(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Returns the crops of images.

        Args:
            pixels: `[n, channels, rows, columns]`.
            draws: `[3, n]`, see `draw`.

        Returns:
            `[n, channels, rows, columns]`.
        """
        top, left, mirrored = draws[:, :, None]
        count, _, height, width = pixels.shape
        framed = F.pad(pixels, (self.padding,) * 4)
        rows = top + torch.arange(height)
        columns = torch.arange(width).expand(count, width)
        columns = left + torch.where(mirrored.bool(), width - 1 - columns, columns)
        index = rows[:, :, None] * framed.shape[3] + columns[:, None, :]
        flat = framed.flatten(2)
        return flat.gather(2, index.flatten(1)[:, None].expand(-1, flat.shape[1], -1)).view(pixels.shape)


@dataclass(frozen=True)
class ImageBatches:
    """Normalised batches of `batch_size`, anew from the start at each iteration.

    With an augmentation the images are shuffled and augmented, without one they come as they are and in order. Which
    image comes when and how depends on the seed alone, not on the size.

    Attributes:
        normalise: uint8 pixels to the network's inputs.
        order: indices of the images that come; None: all of them.
    """

    images: Images
    normalise: Callable[[Tensor], Tensor]
    batch_size: int
    augmentation: Augmentation | None = None
    seed: int = 0
    order: Tensor | None = None

    def __len__(self) -> int:
        return math.ceil((len(self.images) if self.order is None else len(self.order)) / self.batch_size)

    def draw(self, samples: int) -> ImageBatches:
        """Returns so many of the images, drawn by class from all of them; see `autoprune.tasks.loading.drawing`."""
        order = stratified_order(self.images.labels.numpy(), self.seed)
        return replace(self, order=torch.from_numpy(order)[:samples])

    @property
    def ends_with_one(self) -> bool:
        """Whether the last batch is a rest of one sample."""
        count = len(self.images) if self.order is None else len(self.order)
        return count > self.batch_size > 1 == count % self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.images)
        generator = torch.Generator().manual_seed(self.seed)
        if self.augmentation is None:
            order, draws = torch.arange(count), None
        else:
            order = torch.randperm(count, generator=generator)
            draws = self.augmentation.draw(count, generator)
        for chosen in torch.split(order if self.order is None else self.order, self.batch_size):
            pixels = self.images.pixels[chosen]
            if self.augmentation is not None and draws is not None:
                pixels = self.augmentation.apply(pixels, draws[:, chosen])
            yield self.normalise(pixels), self.images.labels[chosen]


class Normalisation:
    """From uint8 pixels to `(pixel / white - mean) / deviation`, per channel, in single precision."""

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...], white: float = 255.0) -> None:
        self._scale = 1.0 / (white * torch.tensor(deviation).view(1, -1, 1, 1))
        self._shift = torch.tensor(mean).view(1, -1, 1, 1) * white * self._scale

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.float().mul_(self._scale).sub_(self._shift)


class ImageTask(ABC):
    """The task of a data set of images that comes with autoprune; what it loads and which images it has, it adds.

    Args:
        model: one of `fitting`, `package.module:callable`, or a function without arguments; if None the first that
            fits.

    Attributes:
        fitting: registry names of the networks that take such images.
        normalise: uint8 pixels to the networks' inputs.
        augmentation: of training images.
        metrics: top-1 accuracy.
    """

    name: ClassVar[str]
    fitting: ClassVar[tuple[str, ...]]
    normalise: ClassVar[Normalisation]
    augmentation: ClassVar[Augmentation]
    metrics: ClassVar[Sequence[Metric]] = (ACCURACY,)

    def __init__(self, model: ModelChoice | None) -> None:
        self._model = named_model(model or self.fitting[0], self.fitting, self.name)

    @abstractmethod
    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        """Loads weights into the network, in place; see `Task.load`."""

    @abstractmethod
    def images(self, split: Split) -> Images:
        """Returns the images of a split, in order; `train` and `plain` are the same ones."""

    @property
    def model_name(self) -> str:
        """The network's name in records and checkpoints."""
        return self._model.name

    def network(self) -> nn.Module:
        """Returns the dense network, its weights not yet loaded."""
        return self._model.build()

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        """Returns `[n, channels, rows, columns]` inputs and `[n]` labels, batch by batch.

        Args:
            split: only `train` is shuffled and augmented.
            batch_size: n, except for the last batch.
            seed: draws order and augmentation, and subsets.
        """
        augmentation = self.augmentation if split == "train" else None
        return ImageBatches(self.images(split), self.normalise, batch_size, augmentation, seed)

    def loss(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        """Returns the mean cross-entropy, `[]`, of `[batch, classes]` logits and `[batch]` labels."""
        return F.cross_entropy(outputs, targets)

    def train(self, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        """Trains the network in place; see `autoprune.tasks.training.loop.train`.

        Args:
            network: on any device.
            plan: how long, at which rate and on batches of which size.
            hooks: called in their order at every event.
        """
        train(network, self, plan, hooks)
