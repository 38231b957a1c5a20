"""Criteria by the activations of a layer's channels."""

from __future__ import annotations

from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics


def nonzero_share(statistics: LayerStatistics) -> Tensor | None:
    """Share of activations that are not zero, behind the activation function.

    Source: Hu et al. 2016 (network trimming), arXiv:1607.03250, section 3: 1 minus the average percentage of zeros, so
    that higher is kept. It tells channels apart only where the activation function can give zero, as ReLU does.

    Returns:
        `[structures]` scores, or None without activations.
    """
    return None if statistics.activations is None else statistics.activations.nonzero


def mean_activation(statistics: LayerStatistics) -> Tensor | None:
    """Mean absolute activation, behind the activation function.

    Source: Molchanov et al. 2017, arXiv:1611.06440, section 2.2 (activation): there the mean, which is the same behind
    a ReLU; of functions with negative values the mean would call a channel that is always far below zero useless.

    Returns:
        `[structures]` scores, or None without activations.
    """
    return None if statistics.activations is None else statistics.activations.magnitude


APOZ = Criterion("apoz", nonzero_share, frozenset({"activations"}))
MEAN_ACTIVATION = Criterion("mean_activation", mean_activation, frozenset({"activations"}))
