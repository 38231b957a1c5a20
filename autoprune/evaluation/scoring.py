"""Which training samples score the structures, for criteria that read data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from autoprune.errors import TaskError
from autoprune.evaluation.metrics import Batches
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.tasks.base import Batch, Task


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class ScoringSamples:
    """The first training samples, read anew at each iteration and not before it.

    Attributes:
        samples: at most so many.
        batch_size: samples in one forward (and backward) pass.
        seed: draws the order and the augmentation where they are not plain.
        seen: called after each batch.
    """

    task: Task
    device: torch.device
    samples: int = 1024
    batch_size: int = 64
    seed: int = 0
    seen: Callable[[], None] = _nothing

    @property
    def split(self) -> Literal["plain", "train"]:
        """`plain`, or `train` (shuffled, augmented) where the task has no training samples without augmentation."""
        try:
            self.task.batches("plain", self.batch_size, self.seed)
        except TaskError:
            return "train"
        return "plain"

    def __iter__(self) -> Iterator[Batch]:
        for batch in Batches(self.task, self.split, self.samples, self.batch_size, self.seed, self.device):
            yield batch
            self.seen()

    def source(self) -> CalibrationData:
        """The samples with the task's loss."""
        return CalibrationData(self, self.task.loss)

    def describe(self) -> dict[str, Any]:
        """What was chosen, for records."""
        drawn = {} if self.split == "plain" else {"seed": self.seed}
        return {"samples": self.samples, "batch_size": self.batch_size, "split": self.split, **drawn}
