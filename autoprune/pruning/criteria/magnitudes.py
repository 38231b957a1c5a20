"""Criteria by the size of weights: a structure's norm or magnitude, or the scale of the batch norm behind it."""

from __future__ import annotations

from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics


def l1_norm(statistics: LayerStatistics) -> Tensor:
    """Sum of absolute weights of each structure.

    Source: Li et al. 2017, arXiv:1608.08710, section 3.1.

    Returns:
        `[structures]` scores.
    """
    return statistics.weight.flatten(1).abs().sum(1)


def l2_norm(statistics: LayerStatistics) -> Tensor:
    """Euclidean norm of each structure's weights.

    Source: He et al. 2018 (soft filter pruning), arXiv:1808.06866, equation 2 with p = 2.

    Returns:
        `[structures]` scores.
    """
    return statistics.weight.flatten(1).square().sum(1).sqrt()


def mean_magnitude(statistics: LayerStatistics) -> Tensor:
    """Mean absolute weight of each structure; of single weights, their magnitude.

    Source: Han et al. 2015, arXiv:1506.02626, section 3. Unlike a norm it can be compared between structures of
    different sizes.

    Returns:
        `[structures]` scores.
    """
    return statistics.weight.abs().mean(1)


def largest_magnitude(statistics: LayerStatistics) -> Tensor:
    """Largest absolute weight of each structure: it is above a threshold if any of its weights is.

    Returns:
        `[structures]` scores.
    """
    return statistics.weight.abs().amax(1)


def deviations(statistics: LayerStatistics) -> Tensor:
    """Largest absolute weight of each structure in standard deviations of the layer's weights.

    Compared with a threshold s it keeps what is above s·σ, the "quality parameter" of Han et al. 2015,
    arXiv:1506.02626, section 3.

    Returns:
        `[structures]` scores.
    """
    scores = largest_magnitude(statistics)
    return scores / statistics.deviation if statistics.deviation > 0 else scores


def batch_norm_scale(statistics: LayerStatistics) -> Tensor | None:
    """Absolute scale in the batch norm that follows; None where none does.

    Source: Liu et al. 2017 (network slimming), arXiv:1708.06519, section 3; there scales are ranked over all layers of
    a network trained with an L1 penalty on them, here they rank the channels of one group.

    Returns:
        `[structures]` scores, or None where no batch norm with scales follows.
    """
    return statistics.scale


L1 = Criterion("l1", l1_norm)
L2 = Criterion("l2", l2_norm)
MAGNITUDE = Criterion("magnitude", mean_magnitude)
THRESHOLD = Criterion("threshold", largest_magnitude)
STD_THRESHOLD = Criterion("std_threshold", deviations)
BN_SCALE = Criterion("bn_scale", batch_norm_scale, frozenset({"norm"}))
