"""Values in [0, 1] per sample, higher is better."""

from __future__ import annotations

from torch import Tensor


def top_1(outputs: Tensor, targets: Tensor) -> Tensor:
    """`[batch]`: 1 where the largest of `[batch, classes]` outputs is the target, else 0."""
    return (outputs.argmax(dim=1) == targets).float()
