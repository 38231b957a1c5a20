"""Reads CIFAR-10 (Krizhevsky 2009) in its two canonical layouts, without executing what a pickle says."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.errors import DataError
from autoprune.tasks.images import Images

RECORDS = 10_000
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS
_SOURCE = (
    "expected cifar-10-binary.tar.gz or cifar-10-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked"
)


@dataclass(frozen=True)
class CifarFolder:
    """The files of one folder: the test batch, and those of the five training batches that are there."""

    test: Path
    training: tuple[Path, ...]
    read: Callable[[Path], Images]
    records: int = RECORDS

    def test_images(self) -> Images:
        return self._read(self.test)

    def training_images(self) -> Images:
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
    """The files in `folder`, or in the canonical folder inside it; only their sizes are looked at.

    Raises:
        DataError: the folder or a file that is needed is missing, or a binary file has not the size of its records.
    """
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist; {_SOURCE}")
    inside = [folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"]
    for place in inside:
        for ending, read in ((".bin", read_binary), ("", read_python)):
            training = tuple(path for path in _training(place, ending) if path.is_file())
            test = place / f"test_batch{ending}"
            if training or test.is_file():
                return _checked(CifarFolder(test, training, read, records))
    raise DataError(f"{folder} holds no CIFAR-10 (neither test_batch.bin nor test_batch); {_SOURCE}")


def _training(place: Path, ending: str) -> list[Path]:
    return [place / f"data_batch_{number}{ending}" for number in range(1, 6)]


def _checked(found: CifarFolder) -> CifarFolder:
    if not found.test.is_file():
        raise DataError(f"{found.test} is missing: the test batch judges candidates; {_SOURCE}")
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
    """The records of one file of the binary version: one label byte and 3,072 pixel bytes each.

    Raises:
        DataError: the file is not a whole number of records, or a label is above 9.
    """
    data = np.fromfile(path, dtype=np.uint8)
    if data.size == 0 or data.size % _RECORD:
        raise DataError(f"{path} is truncated: expected a multiple of {_RECORD:,} bytes, found {data.size:,}")
    records = data.reshape(-1, _RECORD)
    return _images(path, records[:, 1:], records[:, 0].astype(np.int64))


def read_python(path: Path) -> Images:
    """The records of one file of the Python version: a pickled dictionary with `data` and `labels`.

    Raises:
        DataError: the file is truncated, asks for anything but what such files hold, or is not in this layout.
    """
    with path.open("rb") as file:
        try:
            content = _CifarUnpickler(file, encoding="bytes").load()
        except _BROKEN as error:
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


_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,  # UnicodeDecodeError too
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
)


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
    """What numpy starts from before the pickle hands over shape and bytes."""
    if kind is not _ARRAY or shape != (0,):
        _refuse("an unusual array")
    return np.empty((0,), dtype=np.uint8)


def _byte_type(code: object, align: object = False, copy: object = False) -> np.dtype[np.uint8]:
    if _text(code) not in ("u1", "|u1"):
        _refuse(f"an array of {code!r}")
    return np.dtype(np.uint8)


def _bytes(text: object, encoding: object) -> bytes:
    """How Python 3 writes bytes into a pickle of protocol 2."""
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
