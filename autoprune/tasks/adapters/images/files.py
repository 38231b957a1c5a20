"""Folders of images: a folder for each class, in a folder for each part or in one alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from autoprune.errors import DataError
from autoprune.tasks.adapters.parts import complete_parts, find_parts, is_part, joined
from autoprune.tasks.base import Split

LabelledFile = tuple[Path, int]
"""An image and the index of its class."""

_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_MOST_CHECKED = 20_000
"""Of more files than that only those are opened beforehand whose name is not that of an image."""
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageFiles:
    """The images of a folder.

    Attributes:
        classes: names of the classes' folders, sorted; a class is known by its place among them.
        parts: the files of each part with their classes, in order.
    """

    classes: tuple[str, ...]
    parts: Mapping[Split, list[LabelledFile]]


def find_images(root: Path) -> ImageFiles:
    """Returns the images of a folder; the parts that it lacks are drawn.

    Args:
        root: has `train` and perhaps `validation` (or `val`) and `test`, each with a folder for every class, or has the
            classes' folders itself. Hidden files are passed over.

    Raises:
        DataError: it is no such folder, a class is empty or not in all parts, a file is no image; a line on each.
    """
    if not root.is_dir():
        raise DataError(f"{root} is no folder; expected one with a folder of images for each class")
    folders = _part_folders(root)
    classes = tuple(_folders(folders["train"]))
    if len(classes) < 2:
        found = f"only one, {classes[0]!r}" if classes else "none"
        raise DataError(f"{folders['train']} should have a folder of images for each class, but has {found}")
    faults: list[str] = []
    parts = {split: _labelled(folder, classes, folders["train"], faults) for split, folder in folders.items()}
    faults += _no_images([path for files in parts.values() for path, _ in files])
    if faults:
        raise DataError(joined(faults))
    return ImageFiles(classes, complete_parts(parts, [label for _, label in parts["train"]], root))


def _part_folders(root: Path) -> dict[Split, Path]:
    """Returns the folders of the parts; the whole is `train` where it holds the classes itself.

    Raises:
        DataError: there are parts that hold no classes, or no part to train on.
    """
    inside = _folders(root)
    named = {name: path for name, path in inside.items() if is_part(name)}
    if any(_folders(path) for path in named.values()):  # a class may be called train, too
        return find_parts(root, named)
    if named and len(named) == len(inside):
        raise DataError(f"{next(iter(named.values()))} should have a folder of images for each class, but has none")
    return {"train": root}


def _folders(root: Path) -> dict[str, Path]:
    """Returns the folders in a folder that are not hidden, by name, sorted."""
    return {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _labelled(folder: Path, classes: Sequence[str], train: Path, faults: list[str]) -> list[LabelledFile]:
    """Returns the files of a part; adds classes that are empty, missing or not those of the training part to `faults`.

    Args:
        folder: of the part.
        classes: of the training part.
        train: its folder.
        faults: a line on each.
    """
    inside = _folders(folder)
    faults += [f"{folder / name} is a class that {train} does not have" for name in inside if name not in classes]
    files: list[LabelledFile] = []
    for label, name in enumerate(classes):
        found = list(_files(inside[name])) if name in inside else []
        if not found:
            why = "holds no images" if name in inside else f"is missing, a class that {train} has"
            faults.append(f"{folder / name} {why}")
        files += [(path, label) for path in found]
    return files


def _files(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and those in it that are not hidden, sorted."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower() not in _SYSTEM_FILES:
                yield Path(place) / name


def _no_images(paths: Sequence[Path]) -> list[str]:
    """Returns a line on each file that is no image, or one that is damaged as far as this shows without decoding."""
    if len(paths) > _MOST_CHECKED:
        known = Image.registered_extensions()
        paths = [path for path in paths if path.suffix.lower() not in known]
    return [fault for path in paths if (fault := _fault_of(path))]


def _fault_of(path: Path) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PIL's, on sizes and metadata
            with Image.open(path) as image:
                image.verify()
    except UnidentifiedImageError:
        kind = "an empty file" if path.stat().st_size == 0 else "no image"
        return f"{path} is {kind}; remove it from the folder of its class"
    except _BROKEN as fault:
        return _broken(path, fault)
    return ""


def _broken(path: Path, fault: BaseException) -> str:
    return f"{path} is a broken image ({' '.join(str(fault).split())}); replace or remove it"


def read_image(path: Path, mode: Literal["RGB", "L"]) -> Image.Image:
    """Returns an image in colours or grey; what is transparent is as if it were not.

    Raises:
        DataError: it is broken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _eight_bits(image).convert(mode)
    except _BROKEN as fault:
        raise DataError(_broken(path, fault)) from fault


def _eight_bits(image: Image.Image) -> Image.Image:
    """Returns an image of 16 bits per pixel as one of 8, which PIL would cut off; others as they are."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 2**16 - 1) // 257).astype(np.uint8))
