"""Segmentation: which pixels of a noisy scene are of which digit, by the mean IoU of each scene.

A scene has three of scikit-learn's handwritten digits, enlarged, at random places over an uneven background with noise.
The digits of a split are in no other one, and each digit of the test split is in one scene alone, so that its scenes
are independent samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import autoprune
from experiments.tasks.experiment import Experiment

CLASSES = 11
"""Background and ten digits."""
SIDE, DIGIT = 48, 16
IN_A_SCENE = 3
DIGITS = {"train": (0, 897), "validation": (897, 1197), "test": (1197, 1797)}
SCENES = {"train": 4000, "validation": 400, "test": 200}
INK = 0.35
"""From which brightness on a pixel of a digit is the digit's."""
NOISE = 0.1


class Stage(nn.Sequential):
    """Two convolutions at one resolution."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """Down and up again, with what was seen on the way down beside what comes up.

    Source: Ronneberger et al. 2015, arXiv:1505.04597; with padding and batch norm.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 64), classes: int = CLASSES) -> None:
        super().__init__()
        self.down = nn.ModuleList([Stage(before, width) for before, width in pairwise((1, *widths))])
        ups = [(width, below) for width, below in pairwise(widths)][::-1]
        self.rise = nn.ModuleList([nn.ConvTranspose2d(below, width, 2, stride=2) for width, below in ups])
        self.up = nn.ModuleList([Stage(2 * width, width) for width, _ in ups])
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[batch, classes, height, width]` logits of `[batch, 1, height, width]` scenes."""
        seen = []
        for stage in self.down:
            x = stage(F.max_pool2d(x, 2) if seen else x)
            seen.append(x)
        for rise, stage, beside in zip(self.rise, self.up, seen[-2::-1], strict=True):
            x = stage(torch.cat((beside, rise(x)), dim=1))
        return self.head(x)


def mean_iou(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns `[batch]`: the mean over the classes that are in a scene or are seen in it of intersection over union.

    Args:
        outputs: `[batch, classes, height, width]` logits.
        targets: `[batch, height, width]` class numbers.
    """
    seen, true = (F.one_hot(each, outputs.shape[1]).flatten(1, 2).bool() for each in (outputs.argmax(1), targets))
    both, either = (seen & true).sum(1), (seen | true).sum(1)
    return (both / either.clamp(min=1)).sum(1) / (either > 0).sum(1)


def scenes(split: str, seed: int) -> TensorDataset:
    """Returns `[n, 1, SIDE, SIDE]` scenes and the `[n, SIDE, SIDE]` class of each pixel."""
    digits, generator = load_digits(), torch.Generator().manual_seed(seed)
    first, last = DIGITS[split]
    small = torch.tensor(digits.images[first:last] / 16, dtype=torch.float32)[:, None]
    pictures = F.interpolate(small, size=(DIGIT, DIGIT), mode="bilinear")[:, 0]
    labels, count = torch.tensor(digits.target[first:last]) + 1, SCENES[split]
    rounds = -(-count * IN_A_SCENE // len(pictures))
    order = torch.cat([torch.randperm(len(pictures), generator=generator) for _ in range(rounds)])
    uneven = F.interpolate(torch.rand(count, 1, 4, 4, generator=generator), size=(SIDE, SIDE), mode="bicubic")
    canvas, classes = 0.4 * uneven[:, 0], torch.zeros(count, SIDE, SIDE, dtype=torch.long)
    for scene in range(count):
        for number in order[scene * IN_A_SCENE : (scene + 1) * IN_A_SCENE].tolist():
            top, left = torch.randint(SIDE - DIGIT + 1, (2,), generator=generator).tolist()
            brightness = 0.5 + 0.5 * float(torch.rand((), generator=generator))
            where = (scene, slice(top, top + DIGIT), slice(left, left + DIGIT))
            ink = pictures[number] > INK
            canvas[where] = torch.where(ink, brightness * pictures[number], canvas[where])
            classes[where] = torch.where(ink, labels[number], classes[where])
    noisy = canvas + NOISE * torch.randn(canvas.shape, generator=generator)
    return TensorDataset(noisy[:, None], classes)


def task() -> autoprune.SimpleTask:
    """Returns the task."""
    train, validation, test = (scenes(split, seed) for seed, split in enumerate(("train", "validation", "test")))
    return autoprune.SimpleTask(
        UNet,
        train_data=train,
        validation_data=validation,
        test_data=test,
        plain_data=train,
        metrics=autoprune.Metric("mean_iou", mean_iou, "maximize", "%"),
        name="segmentation",
    )


EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        "unet",
        task,
        "flops=0.5",
        training=autoprune.TrainingPlan(epochs=16, rate=4e-3, optimizer="adamw", weight_decay=0.01, batch_size=32),
        finetuning=autoprune.TrainingPlan(epochs=1, rate=1e-3, optimizer="adamw", weight_decay=0.01, batch_size=32),
        search={"evaluations": 150, "evaluation__reconstruct": 256, "evaluation__objective": "mean_iou"},
    ),
)
