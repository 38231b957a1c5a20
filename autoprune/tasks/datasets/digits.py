"""The embedded default: scikit-learn's handwritten digits and a small residual network, trained on first use."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import CheckpointError, TaskError
from autoprune.tasks.base import Batch, Hook, Split
from autoprune.tasks.batches import Augmentation, ImageBatches, Images, Normalisation
from autoprune.tasks.metrics import top_1
from autoprune.tasks.models.named import ModelChoice, NamedModel, named_model
from autoprune.tasks.training.loop import seeded, train
from autoprune.tasks.weights import digest, fill, load_weights, read_checkpoint

FITTING = ("digits_resnet",)
FIRST_USE = TrainingPlan(epochs=25, rate=0.1, batch_size=64, seed=0)
SIZES: Mapping[Split, int] = {"train": 1000, "validation": 400, "test": 397}
_FORMAT = 1
_NORMALISE = Normalisation((0.305,), (0.376,), white=16.0)
_AUGMENTATION = Augmentation(padding=1)


class DigitsTask:
    """1,797 images of 8x8 pixels: 1,000 train, 400 validate, 397 test, every digit (nearly) equally often in each.

    Args:
        model: digits_resnet (if None too), `package.module:callable`, or a function without arguments.
        data: only None: the images come with scikit-learn.
        progress: called while the network is trained on first use.
    """

    name = "digits"

    def __init__(
        self, model: ModelChoice | None = None, data: Path | None = None, progress: Hook | None = None
    ) -> None:
        if data is not None:
            raise TaskError("task 'digits' takes no --data: its images come with scikit-learn; leave the option out")
        self._model = named_model(model or "digits_resnet", FITTING, self.name)
        self._progress = progress

    @property
    def model_name(self) -> str:
        return self._model.name

    def network(self) -> nn.Module:
        return self._model.build()

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        """Loads a checkpoint, or weights in the user's cache folder; if there are none it trains them, in seconds."""
        if checkpoint is not None:
            load_weights(network, checkpoint)
        elif not self._model.bundled:
            raise CheckpointError(
                f"model {self.model_name!r} needs --checkpoint: task 'digits' trains only {FITTING[0]}"
            )
        else:
            state = read_cache(cache_file(self._model)) or self._train_first()
            fill(network, state, f"the trained {self.model_name}")

    def _train_first(self) -> dict[str, Tensor]:
        with seeded(FIRST_USE.seed):
            network = self.network()
        train(network, self, FIRST_USE, [self._progress] if self._progress else [])
        write_cache(cache_file(self._model), network.state_dict())
        return network.state_dict()

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        if split == "train":
            return ImageBatches(self._splits["train"], _NORMALISE, batch_size, _AUGMENTATION, seed)
        return ImageBatches(self._splits["train" if split == "plain" else split], _NORMALISE, batch_size)

    @cached_property
    def _splits(self) -> dict[Split, Images]:
        images = load_images()
        ends = np.cumsum(list(SIZES.values())).tolist()
        return {split: images.part(end - SIZES[split], end) for split, end in zip(SIZES, ends, strict=True)}

    def loss(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metric(self, outputs: Tensor, targets: Tensor, /) -> Tensor:
        return top_1(outputs, targets)

    def train(self, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        train(network, self, plan, hooks)


def load_images() -> Images:
    """Returns all digits, in an order of which every prefix holds each digit (nearly) equally often."""
    from sklearn.datasets import load_digits  # takes a second

    digits = load_digits()
    order = stratified_order(digits.target)
    pixels = torch.from_numpy(digits.images[order].astype(np.uint8)[:, None])
    return Images(pixels, torch.from_numpy(digits.target[order].astype(np.int64)))


def stratified_order(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns a shuffled order in which the k-th of a class's m samples stands about k/m of the way."""
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        place[members] = (generator.permutation(len(members)) + generator.random()) / len(members)
    return place.argsort(kind="stable")


def cache_file(model: NamedModel) -> Path:
    """Returns where the trained weights lie; another network, plan or format has another name."""
    with seeded(0):
        shapes = [(name, tuple(tensor.shape)) for name, tensor in model.build().state_dict().items()]
    version = hashlib.sha256(repr((_FORMAT, FIRST_USE, shapes)).encode()).hexdigest()[:12]
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "autoprune" / f"{model.name}-{version}.pt"


def read_cache(path: Path) -> dict[str, Tensor] | None:
    """Returns the weights in a file of `write_cache`; None if it is missing, unreadable or damaged."""
    try:
        content = read_checkpoint(path)
    except CheckpointError:
        return None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        return None
    return state if digest(state) == content.get("digest") else None


def write_cache(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes the weights, whole or not at all; where the folder cannot be written, nothing happens."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
    except OSError:
        return
    try:
        torch.save({"state_dict": dict(state), "digest": digest(state)}, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError):  # torch reports a full disk as a RuntimeError
        temporary.unlink(missing_ok=True)
