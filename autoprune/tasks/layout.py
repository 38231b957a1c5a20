"""Where in memory the channels of images and kernels lie while a network is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def arranged(network: nn.Module, channels_last: bool) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, four-dimensional parameters lie channels last if asked; what arranges a batch likewise is handed out.

    Afterwards the parameters lie as before; their values, and which objects they are, never change.
    """
    if not channels_last:
        yield lambda inputs: inputs
        return
    moved = [parameter for parameter in network.parameters() if parameter.dim() == 4 and parameter.is_contiguous()]
    try:
        for parameter in moved:
            parameter.data = _channels_last(parameter.data)
        yield _channels_last
    finally:
        for parameter in moved:
            parameter.data = parameter.data.contiguous()


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
