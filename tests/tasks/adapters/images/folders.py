"""Folders of tiny images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (230, 30, 30)}


def write_images(folder: Path, classes: Sequence[str] = tuple(COLOURS), count: int = 10, size: int = 12) -> Path:
    """Writes images of noise around a colour for each class; returns the folder."""
    rng = np.random.default_rng(len(str(folder.name)))
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        colour = np.array(list(COLOURS.values())[place % 3])
        for number in range(count):
            pixels = (colour + rng.integers(-20, 21, (size, size + 4, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
