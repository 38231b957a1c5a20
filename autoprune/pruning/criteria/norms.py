"""Norms of a structure's weights."""

from __future__ import annotations

from torch import Tensor


def l1_norm(weight: Tensor) -> Tensor:
    """Sum of absolute weights of each structure.

    Args:
        weight: `[structures, …]`, for filters `[out, in, kh, kw]`.

    Returns:
        `[structures]` scores.

    Source: Li et al. 2017, arXiv:1608.08710, section 3.1.
    """
    return weight.flatten(1).abs().sum(1)


def l2_norm(weight: Tensor) -> Tensor:
    """Euclidean norm of each structure's weights.

    Args:
        weight: `[structures, …]`.

    Returns:
        `[structures]` scores.

    Source: He et al. 2018 (soft filter pruning), arXiv:1808.06866, equation 2 with p = 2.
    """
    return weight.flatten(1).square().sum(1).sqrt()
