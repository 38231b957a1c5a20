"""How often each layer's weights are used for one sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from autoprune.graph.layers import CONVOLUTIONS, TRANSPOSED


def count_positions(network: nn.Module, names: Sequence[str], sample: Tensor) -> dict[str, int]:
    """Layer name to how often each of its weights is used, over all calls; 0 for what is no layer with weights.

    Args:
        sample: `[1, …]`, what is counted on.
    """
    counts = dict.fromkeys(names, 0)
    modules = dict(network.named_modules())
    hooks = [
        modules[name].register_forward_hook(partial(_count, counts, name))
        for name in names
        if isinstance(modules.get(name), (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))
    ]
    try:
        network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def _count(counts: dict[str, int], name: str, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """A weight meets each position of the output once; of a transposed convolution, each of the input."""
    if isinstance(module, TRANSPOSED):
        counts[name] += inputs[0].numel() // module.in_channels
    elif isinstance(module, nn.Linear):
        counts[name] += output.numel() // module.out_features
    else:
        counts[name] += output.numel() // module.out_channels
