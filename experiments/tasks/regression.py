"""Forecasting a series: the next pixels of a row of a photograph, three colours together, by their mean absolute error.

The series are the rows of scikit-learn's two sample images (427 rows of 640 pixels each). The upper rows train, those
below choose, the lowest are reported; ten rows between them belong to nobody, as neighbouring rows resemble each other.
Of the rows that are reported every fourth is taken, in windows that do not overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import autoprune
from experiments.tasks.experiment import Experiment

PAST, FUTURE = 64, 8
ROWS = {"train": range(0, 250), "validation": range(260, 330), "test": range(340, 427, 4)}
STRIDES = {"train": 12, "validation": 24, "test": PAST + FUTURE}
GREY_LEVELS = 255


class Residual(nn.Module):
    """Two convolutions over time, beside which the series passes."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, hidden, 5, padding=2, bias=False)
        self.norm1 = nn.BatchNorm1d(hidden)
        self.conv2 = nn.Conv1d(hidden, width, 5, padding=2, bias=False)
        self.norm2 = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[batch, width, time]` of `[batch, width, time]`."""
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Forecaster(nn.Module):
    """Residual blocks over a series, whose resolution halves twice, and a linear layer for what comes."""

    def __init__(self, widths: Sequence[int] = (32, 48, 64), blocks: int = 2, colours: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = colours
        for stage, width in enumerate(widths):
            stride = 1 if stage == 0 else 2
            layers += [nn.Conv1d(before, width, 5, stride, 2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            layers += [Residual(width, width) for _ in range(blocks)]
            before = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(before * (PAST // 4), colours * FUTURE)

    def forward(self, past: Tensor) -> Tensor:
        """Returns `[batch, colours, FUTURE]` of `[batch, colours, PAST]`: how they differ from the last value known."""
        last = past[:, :, -1:]
        ahead = self.head(self.body(past - last).flatten(1))
        return last + ahead.view(past.shape[0], past.shape[1], FUTURE)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns `[batch]` mean absolute errors, in grey levels, of `[batch, colours, time]` in [0, 1]."""
    return GREY_LEVELS * (outputs - targets).abs().mean((1, 2))


def windows(split: str) -> TensorDataset:
    """Returns `[n, 3, PAST]` and the `[n, 3, FUTURE]` that follows on them."""
    rows = torch.stack([torch.tensor(image[list(ROWS[split])]) for image in load_sample_images().images])
    series = rows.flatten(0, 1).permute(0, 2, 1).float() / GREY_LEVELS
    cut = series.unfold(2, PAST + FUTURE, STRIDES[split]).permute(0, 2, 1, 3).flatten(0, 1)
    return TensorDataset(cut[..., :PAST].contiguous(), cut[..., PAST:].contiguous())


def task() -> autoprune.SimpleTask:
    """Returns the task."""
    train, validation, test = map(windows, ("train", "validation", "test"))
    return autoprune.SimpleTask(
        Forecaster,
        train_data=train,
        validation_data=validation,
        test_data=test,
        plain_data=train,
        loss=F.l1_loss,
        metrics=autoprune.Metric("mae", absolute_error, "minimize", "grey levels"),
        name="forecast",
    )


EXPERIMENTS = (
    Experiment(
        "forecaster",
        task,
        "flops=0.3",
        training=autoprune.TrainingPlan(epochs=12, rate=2e-3, optimizer="adamw", weight_decay=0.01, warmup=0.05),
        finetuning=autoprune.TrainingPlan(epochs=1, rate=5e-4, optimizer="adamw", weight_decay=0.01),
        search={"evaluations": 100, "space__depth": True},
    ),
)
