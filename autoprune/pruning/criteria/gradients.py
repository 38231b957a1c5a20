"""Criteria by the gradient of the loss with respect to a structure's weights, or to a gate on its channel."""

from __future__ import annotations

from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics


def taylor(statistics: LayerStatistics) -> Tensor | None:
    """Squared weight times gradient, summed over the structure's weights, mean over batches.

    Source: Molchanov et al. 2019, arXiv:1906.10771, section 3: the first-order importance of each weight by itself,
    summed; a layer's bias and batch norm are left out.

    Returns:
        `[structures]` scores, or None without gradients.
    """
    if statistics.gradients is None:
        return None
    return (statistics.weight.square() * statistics.gradients.square).flatten(1).sum(1)


def gradient_magnitude(statistics: LayerStatistics) -> Tensor | None:
    """Absolute gradient, summed over the structure's weights, mean over batches.

    A baseline without a paper of its own: how much the loss depends on the weights where they are, whatever their size.

    Returns:
        `[structures]` scores, or None without gradients.
    """
    return None if statistics.gradients is None else statistics.gradients.magnitude.flatten(1).sum(1)


def saliency(statistics: LayerStatistics) -> Tensor | None:
    """Absolute weight times absolute gradient, summed over the structure's weights, mean over batches.

    Source: Lee et al. 2019 (SNIP), arXiv:1810.02340, section 4 (connection sensitivity); there over one batch at the
    initial weights, here over several at the present ones.

    Returns:
        `[structures]` scores, or None without gradients.
    """
    if statistics.gradients is None:
        return None
    return (statistics.weight.abs() * statistics.gradients.magnitude).flatten(1).sum(1)


def gate_taylor(statistics: LayerStatistics) -> Tensor | None:
    """Squared first-order change of the loss if a channel's gate is closed, mean over batches.

    The gate is a factor of 1 behind the batch norm that follows, so that its derivative is that of the scale times the
    scale plus that of the shift times the shift; where no batch norm follows it lies behind the layer itself.

    Source: Molchanov et al. 2019, arXiv:1906.10771, section 3; there one gate for a whole residual stream, here one
    behind each of its layers.

    Returns:
        `[structures]` scores, or None without gates.
    """
    return statistics.gate


TAYLOR = Criterion("taylor", taylor, frozenset({"gradients"}))
GRADIENT = Criterion("gradient", gradient_magnitude, frozenset({"gradients"}))
SALIENCY = Criterion("saliency", saliency, frozenset({"gradients"}))
TAYLOR_GATE = Criterion("taylor_gate", gate_taylor, frozenset({"gates"}))
