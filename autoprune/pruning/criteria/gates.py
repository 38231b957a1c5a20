"""Criteria by the batch norm behind a layer: its scale, and a gate behind it."""

from __future__ import annotations

from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics


def batch_norm_scale(statistics: LayerStatistics) -> Tensor | None:
    """Absolute scale in the batch norm that follows; None where none does.

    Source: Liu et al. 2017 (network slimming), arXiv:1708.06519, section 3; there scales are ranked over all layers of
    a network trained with an L1 penalty on them, here they rank the channels of one group.

    Returns:
        `[structures]` scores, or None where there is no such scale or gate.
    """
    return statistics.scale


def gate_taylor(statistics: LayerStatistics) -> Tensor | None:
    """Squared first-order change of the loss if a channel's gate is closed, mean over batches.

    The gate is a factor of 1 behind the batch norm that follows, so that its derivative is that of the scale times the
    scale plus that of the shift times the shift; where no batch norm follows it lies behind the layer itself.

    Source: Molchanov et al. 2019, arXiv:1906.10771, section 3; there one gate for a whole residual stream, here one
    behind each of its layers.

    Returns:
        `[structures]` scores, or None where there is no such scale or gate.
    """
    return statistics.gate


BN_SCALE = Criterion("bn_scale", batch_norm_scale, frozenset({"norm"}))
TAYLOR_GATE = Criterion("taylor_gate", gate_taylor, frozenset({"gates"}))
