"""Denoising: the published DnCNN-S (Zhang et al. 2017, arXiv:1608.03981) for noise of σ = 25, by PSNR.

It re-estimates batch norm and is fine-tuned on patches of `train/`; tiles of Set12 choose, and the whole images of
Set68 are reported. The noise of an image that chooses or is reported is always the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.image import imread
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import autoprune
from experiments.tasks.experiment import DATA, Experiment

SIGMA = 25 / 255
PATCH, PATCHES = 40, 16
"""Of the training images: side in pixels, and how many of each in a pass."""
TILE, TILES = 64, 8
"""Of Set12: side in pixels, and how many of each image."""


class DnCnn(nn.Module):
    """Seventeen convolutions that estimate the noise, which is then subtracted.

    The layers and their names are those of the published file.
    """

    def __init__(self, width: int = 64, depth: int = 17) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.ReLU()]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.dncnn = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1, bias=False))

    def forward(self, noisy: Tensor) -> Tensor:
        """Returns the `[batch, 1, height, width]` denoised images of noisy ones in [0, 1]."""
        return noisy - self.dncnn(noisy)


def psnr(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns `[batch]` peak signal-to-noise ratios in dB, of images whose peak is 1."""
    return -10 * (outputs.clamp(0, 1) - targets).square().flatten(1).mean(1).log10()


def read_pictures(folder: Path) -> list[Tensor]:
    """Returns the `[height, width]` grey images of a folder, in [0, 1]."""
    return [torch.from_numpy(imread(path)) for path in sorted(folder.glob("*.png"))]


def noised(image: Tensor, seed: int) -> Tensor:
    """Returns the image with its noise, always the same for a seed."""
    return image + SIGMA * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """Patches at random places of the training images, turned, mirrored and with noise, as DnCNN learned from."""

    def __init__(self, folder: Path) -> None:
        self.pictures = read_pictures(folder)

    def __len__(self) -> int:
        return PATCHES * len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.pictures[index % len(self.pictures)]
        top, left = (int(torch.randint(side - PATCH + 1, ())) for side in image.shape)
        patch = image[top : top + PATCH, left : left + PATCH].rot90(int(torch.randint(4, ())))
        clean = (patch.flip(1) if torch.rand(()) < 0.5 else patch)[None].contiguous()
        return clean + SIGMA * torch.randn(clean.shape), clean


def tiles(folder: Path) -> TensorDataset:
    """Returns `[n, 1, TILE, TILE]` noisy and clean tiles, neighbours of different images."""
    pairs = []
    for number, image in enumerate(read_pictures(folder)):
        pair = torch.stack([noised(image, number), image])
        cut = pair.unfold(1, TILE, TILE).unfold(2, TILE, TILE).flatten(1, 2)
        pairs.append(cut[:, :: cut.shape[1] // TILES][:, :TILES])
    noisy, clean = torch.stack(pairs, dim=2).flatten(1, 2)[:, :, None]
    return TensorDataset(noisy, clean)


@dataclass(frozen=True)
class WholeImages:
    """Batches of one image each, as they differ in shape."""

    folder: Path

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, image in enumerate(read_pictures(self.folder)):
            yield noised(image, 1000 + number)[None, None], image[None, None]


def task(data: Path = DATA) -> autoprune.SimpleTask:
    """Returns the task on the images in `data`/denoising."""
    folder = data / "denoising"
    return autoprune.SimpleTask(
        DnCnn,
        train_data=Patches(folder / "train"),
        validation_data=tiles(folder / "Set12"),
        test_data=WholeImages(folder / "Set68"),
        loss=F.mse_loss,
        metrics=autoprune.Metric("psnr", psnr, "maximize", "dB"),
        name="denoising",
    )


EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        "dncnn",
        task,
        "flops=0.5",
        weights=DATA.parent / "checkpoints" / "dncnn_s25.pth",
        finetuning=autoprune.TrainingPlan(steps=200, rate=1e-3, optimizer="adam", weight_decay=0.0, batch_size=32),
        search={
            "evaluations": 60,
            "evaluation__batch_size": 12,
            "evaluation__recalibrate__samples": 128,
            "sensitivity__samples": 48,
            "sensitivity__levels": 4,
        },
    ),
)
