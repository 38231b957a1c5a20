"""Values in [0, 1] per sample, higher is better."""

from __future__ import annotations

import torch
from torch import Tensor


def top_1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns `[batch]`: 1 where the largest of `[batch, classes]` outputs is the target, else 0."""
    return (outputs.argmax(dim=1) == targets).float()


def top_k(outputs: Tensor, targets: Tensor, k: int) -> Tensor:
    """Returns `[batch]`: 1 where the target is among the k largest of `[batch, classes]` outputs, else 0.

    Of equal outputs those of the lower classes count as larger; a target whose output is NaN is not among the largest.

    Args:
        outputs: `[batch, classes]` scores.
        targets: `[batch]` class indices.
        k: from 1 up to the number of classes.
    """
    own = outputs.gather(1, targets[:, None])
    lower = torch.arange(outputs.shape[1], device=outputs.device) < targets[:, None]
    larger = ~(outputs <= own)  # rather than >, for NaN
    before = larger | ((outputs == own) & lower)
    return (before.sum(dim=1) < k).float()


def applicable_top_k(outputs: Tensor, targets: Tensor, k: int) -> bool:
    """Returns whether outputs and targets are of a kind that `top_k` says something of.

    Args:
        outputs: should be `[batch, classes]` of more than k classes.
        targets: should be `[batch]` class indices.
        k: should be at least 1.
    """
    if outputs.dim() != 2 or targets.shape != outputs.shape[:1] or not outputs.shape[1] > k >= 1:
        return False
    if targets.dtype != torch.int64 or not outputs.is_floating_point():  # what cross-entropy takes as class indices
        return False
    return bool(((targets >= 0) & (targets < outputs.shape[1])).all())
