"""Copies networks, with a clear error where they cannot be copied."""

from __future__ import annotations

from torch import nn

from autoprune.errors import TaskError
from autoprune.graph.networks import deep_copy


def copy_network(network: nn.Module) -> nn.Module:
    """Returns a deep copy of the network; see `deep_copy`.

    Raises:
        TaskError: it holds something that cannot be copied.
    """
    try:
        return deep_copy(network)
    except (RuntimeError, TypeError) as fault:
        raise TaskError(f"{type(network).__name__} cannot be copied: {fault}") from fault
