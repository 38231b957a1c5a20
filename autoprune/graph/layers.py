"""The layers whose channels are followed, and the axes along which their tensors hold channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import parametrize

from autoprune.graph.modules.recurrent import PrunableGRU, PrunableLSTM, PrunableRNN


def _classes(names: str) -> tuple[type[nn.Module], ...]:
    return tuple(getattr(nn, name) for name in names.split())


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Per-channel layers whose statistics and parameters never mix channels.
PER_CHANNEL = _classes(
    "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d PReLU"
)
FOLLOWED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *PER_CHANNEL)
# Normalise over channels: statistics are those of the channels that stay.
OVER_CHANNELS = _classes("LayerNorm RMSNorm GroupNorm")
RECURRENT = (*_classes("LSTM GRU RNN"), PrunableLSTM, PrunableGRU, PrunableRNN)

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
# Modules that are one operation each where a network is recorded.
_UNDERSTOOD = (*FOLLOWED, *OVER_CHANNELS, *ELEMENTWISE, *SPATIAL, nn.Embedding, *RECURRENT)

# Methods that decide what a layer computes; a subclass that overrides one of them is another layer.
_COMPUTING = ("forward", "_conv_forward", "_output_padding", "_check_input_dim")

LayerKind = Literal["convolution", "transposed", "linear", "experts", "embedding", "per_channel", "parameter"]
"""Of `experts` the weight is `[experts, out, in]`, and each call uses a part of it."""
OUTER_AND_INNER: Mapping[LayerKind, tuple[int, int]] = {"transposed": (1, 0), "embedding": (1, 0), "experts": (1, 2)}
"""Axes of a weight along which its outputs and inputs lie, where these are not the first two."""
Side = Literal["out", "in", "passthrough"]
"""Channels that a layer makes, uses up, or passes on (batch norm, a depthwise convolution, a bare parameter)."""


@dataclass(frozen=True)
class Layer:
    """One layer whose channels are followed.

    Attributes:
        name: qualified name of the module; of a parameter that is used by itself, of that.
        incoming: `[in]` channel ids of its input axis; None for layers per channel, whose one axis is `outgoing`.
        outgoing: `[out]` channel ids of its output axis.
        positions: how often each weight is used for one sample, over all calls.
        groups: of a convolution, else 1.
        tensor: qualified name of its weight.
        dim: for kind `parameter`, the axis of the tensor that holds channels.
    """

    name: str
    kind: LayerKind
    type: str
    incoming: Tensor | None
    outgoing: Tensor
    positions: int = 0
    groups: int = 1
    tensor: str = ""
    dim: int = 0

    @property
    def module(self) -> str:
        """Qualified name of the module that holds its weight, or what that is computed of; empty for the network."""
        holder = self.name.rpartition(".")[0] if self.name == self.tensor else self.name
        return f".{holder}".partition(".parametrizations.")[0].removeprefix(".")

    @property
    def bias_name(self) -> str:
        """Qualified name that its bias has, if there is one."""
        path, _, key = self.weight_name.rpartition(".")
        return qualified_name(path, key.replace("weight", "bias"))

    @property
    def is_module(self) -> bool:
        """Whether it is a module that is called as a whole, not a function of a parameter."""
        return self.type != "Parameter" and self.name != self.tensor

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
        return self.tensor or qualified_name(self.name, "weight")

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


def is_understood(module: nn.Module) -> bool:
    """Tells whether a module is followed as a whole, by its class; what it calls is not looked at."""
    return is_one_of(module, _UNDERSTOOD) and not parametrize.is_parametrized(module) and not _computed_weight(module)


def _computed_weight(module: nn.Module) -> bool:
    """Tells whether a layer's weight is computed before each call, as old-style weight norm and pruning hooks do."""
    return "weight" in module.__dict__ or isinstance(getattr(module, "weight", None), nn.UninitializedParameter)


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


def axes_per_sample(module: nn.Module) -> int | None:
    """Returns the rank that an instance norm's input has with a batch axis; None for other layers."""
    ranks = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}
    return next((rank for kind, rank in ranks.items() if isinstance(module, kind)), None)


def elementwise(module: nn.Module) -> bool:
    """Tells whether a module works on each value alone."""
    return is_one_of(module, ELEMENTWISE) or _one_slope(module)


def _computes(module: nn.Module, kind: type[nn.Module]) -> bool:
    return all(getattr(type(module), name, None) is getattr(kind, name, None) for name in _COMPUTING)


def _one_slope(module: nn.Module) -> bool:
    return is_one_of(module, (nn.PReLU,)) and bool(module.num_parameters == 1)


def qualified_name(path: str, name: str) -> str:
    """Joins the name of a module and of something in it; either may be empty, as the network's own is."""
    return f"{path}.{name}" if path and name else path or name


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers, `[…]`, that a checkpoint holds, each under its first name only."""
    passing = {
        qualified_name(path, key) for path, part in module.named_modules() for key in part._non_persistent_buffers_set
    }
    return {name: tensor for name, tensor in named_tensors(module).items() if name not in passing}


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers, `[…]`, of a module by qualified name, each under its first name only."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
