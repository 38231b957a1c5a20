"""Values like observed ones, drawn at random."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def draw_like(tensor: Any, observed: Any, generator: torch.Generator, part: tuple[float, float]) -> Any:
    """Draws numbers of a tensor's shape in the range of an observed one; returns masks and other values themselves.

    Args:
        tensor: `[…]`, of any shape; what is no tensor is returned.
        observed: `[…]`, of any shape, whose range is taken.
        generator: on the CPU; all is drawn from it.
        part: of the range to draw from, its ends as shares of the range: (0.5, 1.0) is the upper half.
    """
    if not isinstance(tensor, Tensor) or is_mask(observed):
        return tensor
    least, range_ = float(observed.min()), float(observed.max() - observed.min())
    low, high = (least + share * range_ for share in part)
    if not observed.is_floating_point():
        drawn = torch.randint(math.ceil(low), math.floor(high) + 1, tensor.shape, generator=generator)
    elif range_:
        drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low
    else:
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) + least
    return drawn.to(tensor)


def is_mask(observed: Tensor) -> bool:
    """Tells whether a tensor seems to be a mask: booleans, integers of two values, or numbers with infinities."""
    if observed.dtype is torch.bool or observed.is_complex() or not observed.numel():
        return True
    if observed.is_floating_point():
        return not bool(observed.isfinite().all())
    return bool(((observed == observed.min()) | (observed == observed.max())).all())
