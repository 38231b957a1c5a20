"""Which training images score the structures, for criteria that read data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from autoprune.errors import TaskError
from autoprune.evaluation.metrics import Batches
from autoprune.pruning.statistics.collection import Source
from autoprune.tasks.base import Batch, Task


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class ScoringImages:
    """The first training images, read anew at each iteration and not before it.

    Attributes:
        images: at most so many.
        batch: images in one forward (and backward) pass.
        seed: draws the order and the augmentation where they are not plain.
        seen: called after each batch.
    """

    task: Task
    device: torch.device
    images: int = 1024
    batch: int = 64
    seed: int = 0
    seen: Callable[[], None] = _nothing

    @property
    def split(self) -> Literal["plain", "train"]:
        """`plain`, or `train` (shuffled, augmented) where the task has no training images without augmentation."""
        try:
            self.task.batches("plain", self.batch, self.seed)
        except TaskError:
            return "train"
        return "plain"

    def __iter__(self) -> Iterator[Batch]:
        for batch in Batches(self.task, self.split, self.images, self.batch, self.seed, self.device):
            yield batch
            self.seen()

    def source(self) -> Source:
        """The images with the task's loss."""
        return Source(self, self.task.loss)

    def describe(self) -> dict[str, Any]:
        """What was chosen, for records."""
        drawn = {} if self.split == "plain" else {"seed": self.seed}
        return {"images": self.images, "batch": self.batch, "split": self.split, **drawn}
