"""Norms of a structure's weights."""

from __future__ import annotations

from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics


def l1_norm(statistics: LayerStatistics) -> Tensor:
    """Sum of absolute weights of each structure.

    Source: Li et al. 2017, arXiv:1608.08710, section 3.1.
    """
    return statistics.weight.flatten(1).abs().sum(1)


def l2_norm(statistics: LayerStatistics) -> Tensor:
    """Euclidean norm of each structure's weights.

    Source: He et al. 2018 (soft filter pruning), arXiv:1808.06866, equation 2 with p = 2.
    """
    return statistics.weight.flatten(1).square().sum(1).sqrt()


L1 = Criterion("l1", l1_norm)
L2 = Criterion("l2", l2_norm)
