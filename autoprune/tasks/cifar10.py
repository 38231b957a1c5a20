"""CIFAR-10 with the residual networks of He et al. 2015."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import CheckpointError, DataError
from autoprune.tasks.base import Batch, Hook, Split, TrainingPlan
from autoprune.tasks.cifar10_files import find_cifar10
from autoprune.tasks.images import Augmentation, ImageBatches, Images, Normalisation
from autoprune.tasks.metrics import top_1
from autoprune.tasks.models.named import ModelChoice, named_model
from autoprune.tasks.training import train
from autoprune.tasks.weights import load_weights

FITTING = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
_NORMALISE = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AUGMENTATION = Augmentation(padding=4, flip=True)


class Cifar10Task:
    """Validates on the first half of the test batch and reports on the second.

    Published checkpoints know all 50,000 training images by heart, so none of those may judge a candidate.

    Args:
        model: one of `FITTING`, `package.module:callable`, or a function without arguments; resnet20 if None.
        data: the folder of the binary or the Python version, or the folder that holds that.
        progress: as for every built-in task; nothing is trained on first use here.

    Raises:
        DataError: no folder, or files are missing or of the wrong size. What is in them is checked when it is read.
    """

    name = "cifar10"

    def __init__(
        self, model: ModelChoice | None = None, data: Path | None = None, progress: Hook | None = None
    ) -> None:
        self._model = named_model(model or "resnet20", FITTING, self.name)
        if data is None:
            raise DataError("task 'cifar10' needs --data: the folder cifar-10-batches-bin or cifar-10-batches-py")
        self._files = find_cifar10(Path(data))

    def __str__(self) -> str:
        images, batches = f"{self.training_images:,} training images", len(self._files.training)
        return f"cifar10 with {images} ({batches} of 5 batches) in {self._files.test.parent}"

    @property
    def model_name(self) -> str:
        return self._model.name

    @property
    def training_images(self) -> int:
        """How many training images there are: 50,000, or fewer where a training batch is absent."""
        return len(self._files.training) * self._files.records

    def network(self) -> nn.Module:
        return self._model.build()

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        if checkpoint is None:
            raise CheckpointError("task 'cifar10' needs --checkpoint: it has no trained weights of its own")
        load_weights(network, checkpoint)

    def batches(self, split: Split, size: int, seed: int = 0) -> Iterable[Batch]:
        if split == "train":
            return ImageBatches(self._train, _NORMALISE, size, _AUGMENTATION, seed)
        images = {"plain": lambda: self._train, "validation": lambda: self._judges[0], "test": lambda: self._judges[1]}
        return ImageBatches(images[split](), _NORMALISE, size)

    @cached_property
    def _train(self) -> Images:
        return self._files.training_images()

    @cached_property
    def _judges(self) -> tuple[Images, Images]:
        """Validation and test."""
        images, half = self._files.test_images(), self._files.records // 2
        return images.part(0, half), images.part(half, len(images))

    def loss(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        return top_1(outputs, targets)

    def train(self, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        train(network, self, plan, hooks)
