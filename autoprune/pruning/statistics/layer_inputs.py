"""What convolutions and linear layers multiply their weights with, at some of their output's positions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.layers import CONVOLUTIONS

WeightedLayer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
"""Layers that multiply a weight with windows of their input."""

LayerObserver = Callable[[str, int, Tensor, Tensor], None]
"""Takes a layer's name, which of its calls in this forward pass it is (from 0), its input and its output."""


@contextmanager
def observe_layers(network: nn.Module, layers: Collection[str], take: LayerObserver) -> Iterator[None]:
    """For one forward pass, shows the inputs and outputs of some layers as they are called."""
    calls = dict.fromkeys(layers, 0)

    def show(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        calls[name] += 1
        take(name, calls[name] - 1, args[0] if args else kwargs["input"], output)

    hooks = [
        network.get_submodule(name).register_forward_hook(partial(show, name), with_kwargs=True) for name in layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def weighted_layer(network: nn.Module, name: str) -> WeightedLayer:
    """A layer that the graph knows as a convolution or a linear one."""
    module = network.get_submodule(name)
    assert isinstance(module, (*CONVOLUTIONS, nn.Linear))
    return module


def sample_positions(module: WeightedLayer, output: Tensor, most: int, *use: int | str) -> Tensor:
    """`[batch, at most `most`]` places in the flattened positions of a layer's output; all where they are few.

    Args:
        use: what the draw is for; the same use gives the same places, whatever the run's seed.
    """
    shape = output.shape[2:] if isinstance(module, CONVOLUTIONS) else output.shape[1:-1]
    count = shape.numel()
    if count <= most:
        return torch.arange(count, device=output.device).expand(len(output), -1)
    generator = np.random.default_rng(list(" ".join(map(str, use)).encode()))
    return torch.from_numpy(generator.integers(count, size=(len(output), most))).to(output.device)


def outputs_at(module: WeightedLayer, output: Tensor, chosen: Tensor) -> Tensor:
    """`[rows, out]` a layer's outputs at the chosen positions, one row for each of each sample."""
    flat = output.flatten(2).movedim(1, 2) if isinstance(module, CONVOLUTIONS) else _positions_second(output)
    return flat[_samples(chosen), chosen].flatten(0, 1)


def inputs_at(module: WeightedLayer, inputs: Tensor, chosen: Tensor) -> Tensor:
    """`[rows, in, kernel]` what a layer's weight meets at the chosen positions, padding included.

    A row times the weight, `[out, in, kernel]` (each group's own part of `in`), plus the bias is the layer's output.
    """
    if isinstance(module, nn.Linear):
        return _positions_second(inputs)[_samples(chosen), chosen].flatten(0, 1).unsqueeze(2)
    patches = _patches(module, inputs)
    places = torch.unravel_index(chosen, patches.shape[2 : 2 + len(module.kernel_size)])
    channels_last = patches.movedim(1, 1 + len(places))
    return channels_last[(_samples(chosen), *places)].flatten(0, 1).flatten(2)


def _samples(chosen: Tensor) -> Tensor:
    return torch.arange(len(chosen), device=chosen.device)[:, None]


def _positions_second(value: Tensor) -> Tensor:
    """`[batch, positions, features]`: any axes of positions between batch and features as one."""
    return value.unsqueeze(1) if value.dim() == 2 else value.flatten(1, -2)


def _patches(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    """`[batch, in, *output positions, *kernel]`, a view of the padded inputs."""
    pads = list(convolution._reversed_padding_repeated_twice)
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    patches = F.pad(inputs, pads, mode=mode) if any(pads) else inputs
    axes = zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(axes, start=2):
        patches = patches.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return patches
