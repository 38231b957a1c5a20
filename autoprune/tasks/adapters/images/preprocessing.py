"""From an image to a network's input: resized, cropped, normalised; for training, a random part of it, mirrored or not.

Written with PIL and torch, so that no library of transforms is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10


@dataclass(frozen=True)
class Preprocessing:
    """How images become inputs. The defaults are those that most networks for ImageNet are trained with.

    Attributes:
        size: rows and columns of the input.
        resized: rows and columns that an image is resized to before its middle is cut out: both, if `squash`; else as
            small as covers them with the image's own proportions.
        squash: whether proportions change.
        interpolation: of the resizing, as PIL calls it: `bilinear`, `bicubic`, ….
        mean: of each channel, subtracted from values in [0, 1].
        std: of each channel, by which they are then divided.
    """

    size: tuple[int, int] = (224, 224)
    resized: tuple[int, int] = (256, 256)
    squash: bool = False
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def mode(self) -> Literal["RGB", "L"]:
        """In colours or grey."""
        return "L" if len(self.mean) == 1 else "RGB"

    def of_size(self, size: int) -> Preprocessing:
        """Returns the same for another, square size."""
        rows, columns = (round(size * old / new) for old, new in zip(self.resized, self.size, strict=True))
        return replace(self, size=(size, size), resized=(rows, columns))

    def apply(self, image: Image.Image) -> Tensor:
        """Returns the middle of an image as `[channels, rows, columns]`."""
        rows, columns = self.resized
        if not self.squash:  # the side that would not cover is as long as the proportions say
            scale = max(rows / image.height, columns / image.width)
            fitting = image.height * columns < rows * image.width
            rows, columns = (rows, int(scale * image.width)) if fitting else (int(scale * image.height), columns)
        resized = image.resize((columns, rows), self._resampling)
        top, left = (round((have - want) / 2) for have, want in zip((rows, columns), self.size, strict=True))
        return self._normalised(resized.crop((left, top, left + self.size[1], top + self.size[0])))

    def apply_randomly(self, image: Image.Image, scale: float, flip: bool) -> Tensor:
        """Returns a random part of an image, as torch's global generator draws it, as `[channels, rows, columns]`.

        Args:
            image: of the size that it has.
            scale: the least share of its area that is taken; from there up to all of it.
            flip: whether half of the parts are mirrored.

        Source: Szegedy et al. 2015, arXiv:1409.4842, section 6: sides in a ratio between 3/4 and 4/3.
        """
        part = image.resize(self.size[::-1], self._resampling, box=_random_box(image.width, image.height, scale))
        if flip and float(torch.rand(())) < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._normalised(part)

    @property
    def _resampling(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def _normalised(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image, dtype=np.float32)) / 255
        pixels = pixels.reshape(*self.size, -1).permute(2, 0, 1)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous()


def _random_box(width: int, height: int, scale: float) -> tuple[float, float, float, float]:
    """Returns left, upper, right and lower edge of a random part; of the whole where none fits."""
    for _ in range(_TRIES):
        area = width * height * float(torch.empty(()).uniform_(scale, 1.0))
        ratio = math.exp(float(torch.empty(()).uniform_(*map(math.log, _RATIOS))))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            left, top = (int(torch.randint(room + 1, ())) for room in (width - columns, height - rows))
            return left, top, left + columns, top + rows
    return 0, 0, width, height
