"""Copies networks, with a clear error where they cannot be copied."""

from __future__ import annotations

import copy

from torch import nn

from autoprune.errors import TaskError


def copy_network(network: nn.Module) -> nn.Module:
    """Returns a deep copy of the network.

    Raises:
        TaskError: it holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(network)
    except (RuntimeError, TypeError) as fault:
        raise TaskError(
            f"{type(network).__name__} cannot be copied ({fault}); old-style weight_norm and spectral_norm cannot: use "
            "those of torch.nn.utils.parametrizations, or remove them first"
        ) from fault
