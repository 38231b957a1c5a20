"""The embedded default: scikit-learn's handwritten digits and a small residual network, trained on first use."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import CheckpointError, TaskError
from autoprune.tasks.base import Hook, Split
from autoprune.tasks.datasets.images import Augmentation, Images, ImageTask, Normalisation
from autoprune.tasks.loading.drawing import stratified_order
from autoprune.tasks.models.named import ModelChoice, NamedModel
from autoprune.tasks.training.loop import seeded
from autoprune.tasks.weight_files.pickled import read_checkpoint, write_tensors
from autoprune.tasks.weight_files.state_dicts import maps_to
from autoprune.tasks.weights import digest, fill, load_weights

FIRST_USE = TrainingPlan(epochs=25, rate=0.1, batch_size=64, seed=0)
_FORMAT = 1


class DigitsTask(ImageTask):
    """1,797 images of 8x8 pixels: 1,000 train, 400 validate, 397 test, every digit (nearly) equally often in each.

    Args:
        model: digits_resnet (if None too), `package.module:callable`, or a function without arguments.
        data: only None: the images come with scikit-learn.
        progress: called while the network is trained on first use.
    """

    name = "digits"
    fitting = ("digits_resnet",)
    normalise = Normalisation((0.305,), (0.376,), white=16.0)
    augmentation = Augmentation(padding=1)

    def __init__(
        self, model: ModelChoice | None = None, data: Path | None = None, progress: Hook | None = None
    ) -> None:
        if data is not None:
            raise TaskError("task 'digits' takes no --data: its images come with scikit-learn; leave the option out")
        super().__init__(model)
        self._progress = progress

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        """Loads a checkpoint, or weights in the user's cache folder; if there are none it trains them, in seconds.

        Raises:
            CheckpointError: the checkpoint does not fit, or none was given for another network than digits_resnet.
        """
        if checkpoint is not None:
            load_weights(network, checkpoint)
        elif not self._model.bundled:
            raise CheckpointError(
                f"model {self.model_name!r} needs --checkpoint: task 'digits' trains only {self.fitting[0]}"
            )
        else:
            state = read_cache(cache_file(self._model)) or self._train_first()
            fill(network, state, f"the trained {self.model_name}")

    def _train_first(self) -> dict[str, Tensor]:
        with seeded(FIRST_USE.seed):
            network = self.network()
        self.train(network, FIRST_USE, [self._progress] if self._progress else [])
        write_cache(cache_file(self._model), network.state_dict())
        return network.state_dict()

    def images(self, split: Split) -> Images:
        """Returns the `[n, 1, 8, 8]` images of a split, of 0 to 16, and their labels."""
        return self._splits["train" if split == "plain" else split]

    @cached_property
    def _splits(self) -> dict[Split, Images]:
        images = load_images()
        return {"train": images.part(0, 1000), "validation": images.part(1000, 1400), "test": images.part(1400, 1797)}


def load_images() -> Images:
    """Returns all digits, in an order of which every prefix holds each digit (nearly) equally often."""
    from sklearn.datasets import load_digits  # takes a second

    digits = load_digits()
    order = stratified_order(digits.target, 0)
    pixels = torch.from_numpy(digits.images[order].astype(np.uint8)[:, None])
    return Images(pixels, torch.from_numpy(digits.target[order].astype(np.int64)))


def cache_file(model: NamedModel) -> Path:
    """Returns where the trained weights lie; another network, plan or format has another name."""
    with seeded(0):
        shapes = [(name, tuple(tensor.shape)) for name, tensor in model.build().state_dict().items()]
    version = hashlib.sha256(repr((_FORMAT, FIRST_USE, shapes)).encode()).hexdigest()[:12]
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "autoprune" / f"{model.name}-{version}.pt"


def read_cache(path: Path) -> dict[str, Tensor] | None:
    """Returns the weights in a file of `write_cache`, name to `[…]`; None if it is missing, unreadable or damaged."""
    try:
        content = read_checkpoint(path)
    except CheckpointError:
        return None
    state: dict[str, Tensor] = content.get("state_dict", {}) if isinstance(content, dict) else {}
    return state if maps_to(state, Tensor) and digest(state) == content.get("digest") else None


def write_cache(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes the weights, whole or not at all; where the folder cannot be written, nothing happens.

    Args:
        path: see `cache_file`.
        state: name to `[…]` parameters and buffers.
    """
    with suppress(OSError):  # also where two processes write it at once, the same bytes
        write_tensors(path, {"state_dict": dict(state), "digest": digest(state)})
