"""Inputs and outputs of convolutions and linear layers at sampled positions, as a weight matrix meets them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.graph.layers import CONVOLUTIONS, Layer
from autoprune.graph.modules.attention import make_prunable
from autoprune.graph.networks import deep_copy


@dataclass(frozen=True)
class FunctionalLinear:
    """A linear layer that is a function of a module's parameters: the output projection of attention, say.

    Attributes:
        weight: `[out, in]`, perhaps a transposed view of the parameter.
        bias: `[out]`, or None.
    """

    weight: Tensor
    bias: Tensor | None


WeightedLayer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | FunctionalLinear
"""Layers that multiply a weight with windows of their input."""

LayerObserver = Callable[[str, int, Tensor, Tensor], None]
"""Called with a layer's name, the number of its call in this forward pass (from 0), its input and its output."""


def is_observed(layer: Layer) -> bool:
    """Tells whether `observe_layers` shows a layer.

    These are convolutions and linear layers, and linear functions of a module's own `weight` and `bias`; not those of
    parameters of another name, or of parts of one, as in the input projection of attention.
    """
    if not layer.produces or layer.name == layer.tensor:
        return False
    return layer.kind in (("convolution", "linear") if layer.is_module else ("linear", "transposed"))


@contextmanager
def observe_layers(
    network: nn.Module, layers: Collection[Layer], samples: int, observer: LayerObserver
) -> Iterator[None]:
    """Shows an observer the inputs and outputs of some layers during one forward pass.

    Args:
        network: calls the layers; see `observable`.
        layers: those of `is_observed`; of the calls of one layer all are shown.
        samples: how many there are in the pass.
        observer: called after each call of one of them.
    """
    calls = dict.fromkeys((layer.name for layer in layers), 0)

    def show(name: str, inputs: Tensor, output: Tensor) -> None:
        calls[name] += 1
        observer(name, calls[name] - 1, inputs, output)

    def show_module(
        name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> None:
        show(name, args[0] if args else kwargs["input"], output)

    functional = [layer.name for layer in layers if not layer.is_module]
    with ExitStack() as hooks:
        for layer in layers:
            if layer.is_module:
                module = network.get_submodule(layer.name)
                hooks.enter_context(module.register_forward_hook(partial(show_module, layer.name), with_kwargs=True))
        if functional:
            hooks.enter_context(_FunctionObserver(network, functional, samples, show))
        yield


class _FunctionObserver(TorchFunctionMode):
    """Recognises linear functions by their weight and bias, which are those of a module."""

    def __init__(
        self, network: nn.Module, names: Collection[str], samples: int, show: Callable[[str, Tensor, Tensor], None]
    ) -> None:
        super().__init__()
        owners = {name: network.get_submodule(name) for name in names}
        self._owners = {id(owner.weight): (name, owner) for name, owner in owners.items()}
        self._samples, self._show = samples, show

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        order = _LINEAR_FUNCTIONS.get(getattr(func, "__name__", ""))
        if order is not None and isinstance(output, Tensor):
            given = dict(zip(order, args, strict=False)) | (kwargs or {})
            name, owner = self._owners.get(id(given.get("weight")), ("", None))
            if owner is not None and given.get("bias") is getattr(owner, "bias", None):
                self._show(name, self._by_sample(given["input"]), self._by_sample(output))
        return output

    def _by_sample(self, value: Tensor) -> Tensor:
        """Lays rows of all samples, `[rows, features]`, as `[samples, rows of a sample, features]` where that goes."""
        if value.dim() > 2 or len(value) % self._samples:
            return value
        return value.view(self._samples, -1, value.size(1))


_LINEAR_FUNCTIONS = {"linear": ("input", "weight", "bias"), "addmm": ("bias", "input", "weight")}


def observable(network: nn.Module) -> nn.Module:
    """Returns a network whose attention lets its output projection be observed; it shares all tensors with the given.

    A network without `nn.MultiheadAttention` is returned itself.
    """
    if not any(type(module) is nn.MultiheadAttention for module in network.modules()):
        return network
    copied = deep_copy(network, share_tensors=True)
    for module in copied.modules():
        if type(module) is nn.MultiheadAttention:
            make_prunable(module)
    return copied


def weighted_layer(network: nn.Module, layer: Layer) -> WeightedLayer:
    """Returns a layer of `is_observed`."""
    module: Any = network.get_submodule(layer.name)
    if layer.is_module:
        assert isinstance(module, (*CONVOLUTIONS, nn.Linear))
        return module
    weight = module.weight.mT if layer.kind == "transposed" else module.weight
    return FunctionalLinear(weight, getattr(module, "bias", None))


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
    if not isinstance(module, CONVOLUTIONS):
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
