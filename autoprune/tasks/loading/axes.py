"""Which of two axes the samples are along, where shapes do not say it: samples do not depend on one another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.graph.networks import unwrap
from autoprune.graph.recording.randomness import seeded


def may_be_time_first(inputs: Any, targets: Any) -> bool:
    """Tells whether inputs and targets agree along two axes, so that either may be the samples'."""
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or min(inputs.dim(), targets.dim()) < 2:
        return False
    return inputs.shape[:2] == targets.shape[:2] and min(inputs.shape[:2]) > 1


def is_time_first(network: nn.Module, inputs: Tensor) -> bool:
    """Tells whether samples lie along the second axis: whether those along the first depend on one another.

    Args:
        network: run in evaluation mode on two entries at a time.
        inputs: `[time, batch, …]` or `[batch, …]`.
    """
    network = unwrap(network).eval()
    try:
        with seeded(0), torch.inference_mode():
            return not _independent(network, inputs, 0) and _independent(network, inputs, 1)
    except Exception:  # a network that cannot run on them is reported where it is analyzed
        return False


def _independent(network: nn.Module, inputs: Tensor, axis: int) -> bool:
    """Tells whether the outputs of the second entry along an axis are the same without the first."""
    both, alone = (_outputs(network, inputs.narrow(axis, start, 2 - start)) for start in (0, 1))
    pairs = [(one, other) for one, other in zip(both, alone, strict=True) if one.dim() > axis and one.size(axis) == 2]
    return bool(pairs) and all(
        other.size(axis) == 1 and torch.allclose(one.narrow(axis, 1, 1), other, rtol=1e-3, atol=1e-5)
        for one, other in pairs
    )


def _outputs(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(network(inputs)) if isinstance(leaf, Tensor)]
