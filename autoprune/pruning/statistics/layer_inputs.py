"""Inputs and outputs of convolutions and linear layers at sampled positions, as a weight matrix meets them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
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
"""Called with a layer's name, the number of its call in this forward pass (from 0), its input and its output."""


@contextmanager
def observe_layers(network: nn.Module, layers: Collection[str], observer: LayerObserver) -> Iterator[None]:
    """Shows an observer the inputs and outputs of some layers during one forward pass.

    Args:
        network: calls the layers.
        layers: their names; of the calls of one layer all are shown.
        observer: called after each call of one of them.
    """
    calls = dict.fromkeys(layers, 0)

    def show(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        calls[name] += 1
        observer(name, calls[name] - 1, args[0] if args else kwargs["input"], output)

    with ExitStack() as hooks:
        for name in layers:
            module = network.get_submodule(name)
            hooks.enter_context(module.register_forward_hook(partial(show, name), with_kwargs=True))
        yield


def weighted_layer(network: nn.Module, name: str) -> WeightedLayer:
    """Returns a layer that the graph knows as a convolution or a linear one."""
    module = network.get_submodule(name)
    assert isinstance(module, (*CONVOLUTIONS, nn.Linear))
    return module


def sample_positions(module: WeightedLayer, output: Tensor, most: int, *use: int | str) -> Tensor:
    """Draws positions of a layer's output for each sample: `[batch, positions]` indices into the flattened ones.

    Args:
        module: the layer, of which the order of the output's axes depends.
        output: `[batch, out, *positions]`, of a linear layer `[batch, *positions, out]`.
        most: how many are drawn, with replacement; where there are no more than that, all are taken.
        use: what the draw is for; the same use gives the same positions, whatever the run's seed.
    """
    shape = output.shape[2:] if isinstance(module, CONVOLUTIONS) else output.shape[1:-1]
    count = shape.numel()
    if count <= most:
        return torch.arange(count, device=output.device).expand(len(output), -1)
    generator = np.random.default_rng(list(" ".join(map(str, use)).encode()))
    return torch.from_numpy(generator.integers(count, size=(len(output), most))).to(output.device)


def outputs_at(module: WeightedLayer, output: Tensor, chosen: Tensor) -> Tensor:
    """Selects a layer's outputs at the chosen positions: `[batch · positions, out]`.

    Args:
        module: the layer.
        output: `[batch, out, *positions]`, of a linear layer `[batch, *positions, out]`.
        chosen: `[batch, positions]`.
    """
    flat = output.flatten(2).movedim(1, 2) if isinstance(module, CONVOLUTIONS) else _positions_second(output)
    return flat[_sample_indices(chosen), chosen].flatten(0, 1)


def inputs_at(module: WeightedLayer, inputs: Tensor, chosen: Tensor) -> Tensor:
    """Selects what a layer's weight is multiplied with at the chosen positions: `[batch · positions, in, kernel]`.

    A row times the weight, `[out, in, kernel]` (each group's own part of `in`), plus the bias is the layer's output.
    Padding is included.

    Args:
        module: the layer; a convolution's kernel, stride, dilation and padding are followed.
        inputs: `[batch, in, *positions]`, of a linear layer `[batch, *positions, in]`.
        chosen: `[batch, positions]` indices into the flattened positions of the output.
    """
    if isinstance(module, nn.Linear):
        return _positions_second(inputs)[_sample_indices(chosen), chosen].flatten(0, 1).unsqueeze(2)
    patches = _patches(module, inputs)
    positions = torch.unravel_index(chosen, patches.shape[2 : 2 + len(module.kernel_size)])
    channels_last = patches.movedim(1, 1 + len(positions))
    return channels_last[(_sample_indices(chosen), *positions)].flatten(0, 1).flatten(2)


def _sample_indices(chosen: Tensor) -> Tensor:
    return torch.arange(len(chosen), device=chosen.device)[:, None]


def _positions_second(value: Tensor) -> Tensor:
    """Flattens the axes between batch and features into one: `[batch, positions, features]`."""
    return value.unsqueeze(1) if value.dim() == 2 else value.flatten(1, -2)


def _patches(convolution: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor) -> Tensor:
    """Unfolds `[batch, in, *positions]` into `[batch, in, *output positions, *kernel]`, a view of the padded inputs."""
    pads = list(convolution._reversed_padding_repeated_twice)
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    patches = F.pad(inputs, pads, mode=mode) if any(pads) else inputs
    axes = zip(convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(axes, start=2):
        patches = patches.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return patches
