"""The layers whose channels are followed, and the axes along which their tensors hold channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrize


def _classes(names: str) -> tuple[type[nn.Module], ...]:
    return tuple(getattr(nn, name) for name in names.split())


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Per-channel layers whose statistics and parameters never mix channels.
PER_CHANNEL = _classes(
    "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d PReLU"
)
FOLLOWED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *PER_CHANNEL)

# What makes a network nonlinear.
ACTIVATIONS = _classes(
    """
    ReLU ReLU6 LeakyReLU ELU CELU SELU GELU SiLU Mish Sigmoid LogSigmoid Tanh Hardtanh Hardsigmoid Hardshrink Hardswish
    Softplus Softshrink Softsign Tanhshrink Threshold RReLU PReLU
    """
)
ELEMENTWISE = (
    *(kind for kind in ACTIVATIONS if kind is not nn.PReLU),
    *_classes("Identity Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout"),
)
_PADDINGS = ("Zero", "Constant", "Reflection", "Replication", "Circular")
_POOLS = ("Max", "Avg", "AdaptiveAvg", "AdaptiveMax")
# Layers that work on the positions of one channel, with how many axes of positions there are (None: any number).
SPATIAL: Mapping[type[nn.Module], int | None] = {
    **{getattr(nn, f"{name}Pad{axes}d"): axes for name in _PADDINGS for axes in (1, 2, 3)},
    **{getattr(nn, f"{name}Pool{axes}d"): axes for name in _POOLS for axes in (1, 2, 3)},
    nn.LPPool1d: 1,
    nn.LPPool2d: 2,
    nn.Upsample: None,
    nn.UpsamplingNearest2d: 2,
    nn.UpsamplingBilinear2d: 2,
}
STRUCTURAL = (nn.Flatten, nn.Unflatten)

# Methods that decide what a layer computes; a subclass that overrides one of them is another layer.
_COMPUTING = ("forward", "_conv_forward", "_output_padding", "_check_input_dim")

LayerKind = Literal["convolution", "transposed", "linear", "per_channel", "parameter"]
Side = Literal["out", "in", "passthrough"]
"""Channels that a layer makes, uses up, or passes on (batch norm, a depthwise convolution, a bare parameter)."""


@dataclass(frozen=True)
class Layer:
    """One layer whose channels are followed.

    Attributes:
        name: qualified name of the module, or of the parameter for kind `parameter`.
        incoming: `[in]` channel ids of its input axis; None for layers per channel, whose one axis is `outgoing`.
        outgoing: `[out]` channel ids of its output axis.
        positions: how often each weight is used for one sample, over all calls.
        groups: of a convolution, else 1.
        dim: for kind `parameter`, the axis of the tensor that holds channels.
    """

    name: str
    kind: LayerKind
    type: str
    incoming: Tensor | None
    outgoing: Tensor
    positions: int = 0
    groups: int = 1
    dim: int = 0

    @property
    def produces(self) -> bool:
        """Whether it makes channels of its own instead of passing on those of its input."""
        return self.incoming is not None and not self.depthwise

    @property
    def outer_side(self) -> Side:
        """What `outgoing` is to the layer."""
        return "out" if self.produces else "passthrough"

    @property
    def weight_name(self) -> str:
        """Qualified name of its weight."""
        return qualified_name(self.name, "weight")

    @property
    def depthwise(self) -> bool:
        """Whether every group of the convolution sees one input channel."""
        return self.incoming is not None and self.groups > 1 and self.groups == len(self.incoming)


@dataclass(frozen=True)
class ChannelAxis:
    """One axis of one tensor that holds channels: entry i belongs to channel `ids[i]`.

    Attributes:
        tensor: qualified name of the parameter or buffer.
    """

    tensor: str
    dim: int
    side: Side
    ids: Tensor


def layer_kind(module: nn.Module) -> LayerKind | None:
    """Returns how a module is followed, or None where it is not."""
    if not followed_forward(module) or parametrize.is_parametrized(module) or _one_slope(module):
        return None
    # Old-style weight norm and pruning hooks turn `weight` into a plain attribute computed from other parameters.
    if "weight" not in module._parameters or isinstance(module.weight, nn.UninitializedParameter):
        return None
    if isinstance(module, CONVOLUTIONS):
        return "convolution"
    if isinstance(module, TRANSPOSED):
        return "transposed"
    return "linear" if isinstance(module, nn.Linear) else "per_channel"


def followed_forward(module: nn.Module) -> bool:
    """Tells whether a module computes just what one of the followed layers does; it may be a subclass of it."""
    return is_one_of(module, FOLLOWED)


def is_one_of(module: nn.Module, kinds: Iterable[type[nn.Module]]) -> bool:
    """Tells whether a module is of one of these classes, or of a subclass that computes the same."""
    return any(isinstance(module, kind) and _computes(module, kind) for kind in kinds)


def elementwise(module: nn.Module) -> bool:
    """Tells whether a module works on each value alone."""
    return is_one_of(module, ELEMENTWISE) or _one_slope(module)


def _computes(module: nn.Module, kind: type[nn.Module]) -> bool:
    return all(getattr(type(module), name, None) is getattr(kind, name, None) for name in _COMPUTING)


def _one_slope(module: nn.Module) -> bool:
    return is_one_of(module, (nn.PReLU,)) and bool(module.num_parameters == 1)


def channel_axes(layer: Layer, tensors: Mapping[str, Tensor]) -> list[ChannelAxis]:
    """Lists the axes along which a layer's tensors hold its channels.

    Of weights `[out, in / groups, …]` (of a transposed convolution `[in, out / groups, …]`) these are the first two, of
    biases, norms and statistics `[out]` the only one.

    Args:
        layer: of the network.
        tensors: by qualified name, those of the network that are asked for, such as all its parameters.
    """
    if layer.kind == "parameter":
        return [ChannelAxis(layer.name, layer.dim, "passthrough", layer.outgoing)] if layer.name in tensors else []
    found = []
    for key in ("weight", "bias", "running_mean", "running_var"):
        name = qualified_name(layer.name, key)
        if name not in tensors:
            continue
        if key == "weight" and layer.incoming is not None:
            found += _weight_axes(layer, layer.incoming, name)
        elif tensors[name].numel() == len(layer.outgoing):  # a PReLU may share one slope
            found.append(ChannelAxis(name, 0, layer.outer_side, layer.outgoing))
    return found


def qualified_name(path: str, name: str) -> str:
    """Joins the name of a module and of something in it; either may be empty, as the network's own is."""
    return f"{path}.{name}" if path and name else path or name


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers, `[…]`, of a module by qualified name, each under its first name only."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _weight_axes(layer: Layer, incoming: Tensor, tensor: str) -> list[ChannelAxis]:
    # The inner axis of a grouped convolution's weight holds as many channels as one group has; the ids of the first
    # group stand for all, as those of the other groups are tied to them.
    per_group = len(layer.outgoing if layer.kind == "transposed" else incoming) // layer.groups
    if layer.kind == "transposed" and layer.depthwise:
        return [ChannelAxis(tensor, 0, "passthrough", incoming)]
    if layer.kind == "transposed":
        return [ChannelAxis(tensor, 0, "in", incoming), ChannelAxis(tensor, 1, "out", layer.outgoing[:per_group])]
    outer = ChannelAxis(tensor, 0, layer.outer_side, layer.outgoing)
    return [outer] if layer.depthwise else [outer, ChannelAxis(tensor, 1, "in", incoming[:per_group])]
