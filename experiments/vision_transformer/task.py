"""CIFAR-10 with the vision transformer: `--task experiments.vision_transformer.task:task`."""

from __future__ import annotations

import os
from pathlib import Path

from autoprune.tasks.base import Split
from autoprune.tasks.datasets.cifar10 import Cifar10Task
from autoprune.tasks.datasets.images import Images
from experiments.vision_transformer.network import VisionTransformer

DATA = Path(os.environ.get("AUTOPRUNE_DATA", "../shared/data"))
"""The folder with cifar-10-batches-bin."""
HELD_OUT = 0.1
"""The part of the training images, their last ones, that the network does not learn from."""


class VisionTransformerTask(Cifar10Task):
    """Learns from nine tenths of the training images; the rest chose how the network itself is trained.

    As with the published networks a search validates on the first half of the test batch, and the second half is only
    reported.
    """

    name = "vision_transformer"

    def __init__(self, data: Path) -> None:
        super().__init__(VisionTransformer, data)

    def images(self, split: Split) -> Images:
        """Returns the `[n, 3, 32, 32]` images of a split and their labels."""
        images = super().images(split)
        return images.part(0, self._learned(images)) if split in ("train", "plain") else images

    def held_out(self) -> Images:
        """Returns the `[n, 3, 32, 32]` training images that the network does not learn from."""
        images = super().images("plain")
        return images.part(self._learned(images), len(images))

    @property
    def training_images(self) -> int:
        """How many images the network learns from."""
        return len(self.images("train"))

    @staticmethod
    def _learned(images: Images) -> int:
        return len(images) - round(HELD_OUT * len(images))


def task() -> VisionTransformerTask:
    """Returns the task on the images in `DATA`."""
    return VisionTransformerTask(DATA)
