"""CIFAR-10 with the residual networks of He et al. 2015."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.errors import CheckpointError, DataError
from autoprune.tasks.base import Hook, Split
from autoprune.tasks.datasets.images import Augmentation, Images, ImageTask, Normalisation
from autoprune.tasks.metrics import ACCURACY, TOP_5
from autoprune.tasks.models.named import ModelChoice
from autoprune.tasks.weight_files.pickled import UNREADABLE
from autoprune.tasks.weights import load_weights

RECORDS = 10_000
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS
_SOURCE = (
    "expected cifar-10-binary.tar.gz or cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked"
)


@dataclass(frozen=True)
class CifarFolder:
    """The files of one folder: the test batch, and those of the five training batches that are there.

    Attributes:
        read: reads one of the files.
        records: how many each of them holds.
    """

    test: Path
    training: tuple[Path, ...]
    read: Callable[[Path], Images]
    records: int = RECORDS

    @cached_property
    def test_images(self) -> Images:
        """Those of the test batch."""
        return self._read(self.test)

    @cached_property
    def training_images(self) -> Images:
        """Those of all training batches that are there."""
        parts = [self._read(path) for path in self.training]
        return Images(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))

    def _read(self, path: Path) -> Images:
        images = self.read(path)
        if len(images) != self.records:
            raise DataError(
                f"{path} is truncated or another file: expected {self.records:,} records, found {len(images):,}"
            )
        return images


def find_cifar10(folder: Path, records: int = RECORDS) -> CifarFolder:
    """Returns the files in `folder`, or in the canonical folder inside it; only their sizes are looked at.

    Args:
        folder: what the user named.
        records: how many every file should hold.

    Raises:
        DataError: the folder or a file that is needed is missing, or a binary file has not the size of its records.
    """
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist; {_SOURCE}")
    inside = [folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"]
    for parent in inside:
        for ending, read in ((".bin", read_binary), ("", read_python)):
            training = tuple(filter(Path.is_file, (parent / f"data_batch_{n}{ending}" for n in range(1, 6))))
            test = parent / f"test_batch{ending}"
            if training or test.is_file():
                return _checked(CifarFolder(test, training, read, records))
    raise DataError(f"{folder} holds no CIFAR-10 (neither test_batch.bin nor test_batch); {_SOURCE}")


def _checked(found: CifarFolder) -> CifarFolder:
    if not found.test.is_file():
        raise DataError(f"{found.test} is missing: candidates are evaluated on the test batch; {_SOURCE}")
    if not found.training:
        raise DataError(f"{found.test.parent} holds no training batch (data_batch_1 to data_batch_5); {_SOURCE}")
    for path in (found.test, *found.training):
        size, expected = path.stat().st_size, found.records * _RECORD
        if found.read is read_binary and size != expected:
            raise DataError(
                f"{path} is truncated or another file: expected {expected:,} bytes "
                f"({found.records:,} records of {_RECORD:,}), found {size:,}"
            )
    return found


def read_binary(path: Path) -> Images:
    """Returns the records of one file of the binary version: one label byte and 3,072 pixel bytes each.

    Raises:
        DataError: the file is not a whole number of records, or a label is above 9.
    """
    data = np.fromfile(path, dtype=np.uint8)
    if data.size == 0 or data.size % _RECORD:
        raise DataError(f"{path} is truncated: expected a multiple of {_RECORD:,} bytes, found {data.size:,}")
    records = data.reshape(-1, _RECORD)
    return _images(path, records[:, 1:], records[:, 0].astype(np.int64))


def read_python(path: Path) -> Images:
    """Returns the records of one file of the Python version: a pickled dictionary with `data` and `labels`.

    Raises:
        DataError: the file is truncated, asks for anything but what such files hold, or is not in this layout.
    """
    with path.open("rb") as file:
        try:
            content = _CifarUnpickler(file, encoding="bytes").load()
        except (pickle.UnpicklingError, OverflowError, MemoryError, *UNREADABLE) as error:
            raise DataError(f"{path} is truncated or not in the layout of cifar-10-python.tar.gz ({error})") from error
    entries = {_text(key): value for key, value in content.items()} if isinstance(content, dict) else {}
    data, labels = entries.get("data"), entries.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise DataError(f"{path}: expected `data` of [records, {_PIXELS}] bytes; {_SOURCE}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels) or len(labels) != len(data):
        raise DataError(f"{path}: expected `labels` to be a list of {len(data):,} whole numbers; {_SOURCE}")
    return _images(path, data, np.array(labels, dtype=np.int64))


def _images(path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Images:
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if wrong.size:
        raise DataError(f"{path}: the label of record {wrong[0]:,} should be 0 to 9 but is {labels[wrong[0]]}")
    shaped = np.ascontiguousarray(pixels).reshape(-1, 3, 32, 32)
    return Images(torch.from_numpy(shaped), torch.from_numpy(labels))


def _text(key: object) -> object:
    return key.decode("latin1") if isinstance(key, bytes) else key


class _CifarUnpickler(pickle.Unpickler):
    """Builds arrays of bytes, and nothing else: each name that a file may use stands for a function of ours."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        return _refuse(f"{module}.{name}")


def _refuse(what: str) -> NoReturn:
    raise pickle.UnpicklingError(f"it asks for {what}, which CIFAR-10 files do not hold; refused")


_ARRAY = object()


def _empty_array(kind: object, shape: object, code: object) -> NDArray[np.uint8]:
    """Returns what numpy starts from before the pickle hands over shape and bytes."""
    if kind is not _ARRAY or shape != (0,):
        _refuse("an unusual array")
    return np.empty((0,), dtype=np.uint8)


def _byte_type(code: object, align: object = False, copy: object = False) -> np.dtype[np.uint8]:
    if _text(code) not in ("u1", "|u1"):
        _refuse(f"an array of {code!r}")
    return np.dtype(np.uint8)


def _bytes(text: object, encoding: object) -> bytes:
    """Returns bytes as Python 3 writes them into a pickle of protocol 2."""
    if not isinstance(text, str) or _text(encoding) != "latin1":
        _refuse(f"text encoded as {encoding!r}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _byte_type,
    ("_codecs", "encode"): _bytes,
}


class Cifar10Task(ImageTask):
    """Validates on the first half of the test batch and reports on the second.

    Published checkpoints know all 50,000 training images by heart, so no candidate may be evaluated on them.

    Args:
        model: one of `fitting`, `package.module:callable`, or a function without arguments; resnet20 if None.
        data: the folder of the binary or the Python version, or the folder that holds that.
        progress: as for every built-in task; nothing is trained on first use here.

    Raises:
        DataError: no folder, or files are missing or of the wrong size. What is in them is checked when it is read.
    """

    name = "cifar10"
    fitting = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")
    normalise = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    augmentation = Augmentation(padding=4, flip=True)
    metrics = (ACCURACY, TOP_5)

    def __init__(
        self, model: ModelChoice | None = None, data: Path | None = None, progress: Hook | None = None
    ) -> None:
        super().__init__(model)
        if data is None:
            raise DataError("task 'cifar10' needs --data: the folder cifar-10-batches-bin or cifar-10-batches-py")
        self._files = find_cifar10(Path(data))

    def __str__(self) -> str:
        images, batches = f"{self.training_images:,} training images", len(self._files.training)
        return f"cifar10 with {images} ({batches} of 5 batches) in {self._files.test.parent}"

    @property
    def training_images(self) -> int:
        """How many training images there are: 50,000, or fewer where a training batch is absent."""
        return len(self._files.training) * self._files.records

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        """Loads a checkpoint.

        Raises:
            CheckpointError: it does not fit, or none was given.
        """
        if checkpoint is None:
            raise CheckpointError("task 'cifar10' needs --checkpoint: it has no trained weights of its own")
        load_weights(network, checkpoint)

    def images(self, split: Split) -> Images:
        """Returns the `[n, 3, 32, 32]` images of a split and their labels; they are read when first asked for.

        Raises:
            DataError: a file is damaged.
        """
        if split in ("train", "plain"):
            return self._files.training_images
        images, half = self._files.test_images, self._files.records // 2
        return images.part(0, half) if split == "validation" else images.part(half, len(images))
