"""Absolute weights, in units that can be compared between layers or held against a threshold."""

from __future__ import annotations

from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics


def mean_magnitude(statistics: LayerStatistics) -> Tensor:
    """Mean absolute weight of each structure; of single weights, their magnitude.

    Source: Han et al. 2015, arXiv:1506.02626, section 3. Unlike a norm it can be compared between structures of
    different sizes.
    """
    return statistics.weight.abs().mean(1)


def largest_magnitude(statistics: LayerStatistics) -> Tensor:
    """Largest absolute weight of each structure: it is above a threshold if any of its weights is."""
    return statistics.weight.abs().amax(1)


def deviations(statistics: LayerStatistics) -> Tensor:
    """Largest absolute weight of each structure in standard deviations of the layer's weights.

    Held against a threshold s it keeps what is above s·σ, the "quality parameter" of Han et al. 2015,
    arXiv:1506.02626, section 3.
    """
    scores = largest_magnitude(statistics)
    return scores / statistics.deviation if statistics.deviation > 0 else scores


MAGNITUDE = Criterion("magnitude", mean_magnitude)
THRESHOLD = Criterion("threshold", largest_magnitude)
STD_THRESHOLD = Criterion("std_threshold", deviations)
