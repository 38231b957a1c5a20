"""Weight norm: weights that are computed of a direction and a scale, and stay what they are while channels go.

A weight is w = g · v / ‖v‖, with a norm for each entry along one axis, or over all of v (Salimans and Kingma 2016,
arXiv:1602.07868, equation 2). Where entries of v go, those that stay would be divided by another norm. So that w stays
what it is, g is multiplied by ‖v that stays‖ / ‖v‖.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm as _Hook

from autoprune.graph.layers import CONVOLUTIONS, TRANSPOSED, qualified_name


@dataclass(frozen=True)
class WeightNorm:
    """A weight that weight norm computes.

    Attributes:
        module: name of the layer.
        direction: qualified name of v, of the weight's shape.
        scale: qualified name of g, of the weight's shape with length 1 along all axes but `dim`; a scalar for -1.
        dim: the axis with a norm for each entry; -1: one norm for all.
        bias: qualified name that the layer's bias has, if there is one.
    """

    module: str
    direction: str
    scale: str
    dim: int
    bias: str

    def norm(self, network: nn.Module) -> Tensor:
        """Returns ‖v‖, of the shape of g; 1 where all of v is zero."""
        found = torch.norm_except_dim(network.get_parameter(self.direction), 2, self.dim)
        return found.masked_fill(found == 0, 1.0)

    def weight(self, network: nn.Module) -> Tensor:
        """Returns the weight, `[out, in, …]`."""
        scale = network.get_parameter(self.scale)
        return network.get_parameter(self.direction) * (scale / self.norm(network).view(scale.shape))


def find_weight_norms(network: nn.Module) -> list[WeightNorm]:
    """Finds the weights that weight norm computes, of `torch.nn.utils.weight_norm` and of the parametrisation."""
    found = []
    for path, module in network.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _Hook):
                direction, scale = (qualified_name(path, f"{hook.name}_{part}") for part in "vg")
                found.append(WeightNorm(path, direction, scale, hook.dim, _bias(path, hook.name)))
        if isinstance(module, ParametrizationList) and len(module) == 1 and isinstance(module[0], _WeightNorm):
            owner, _, name = path.partition("parametrizations.")
            owner = owner.removesuffix(".")
            direction, scale = (qualified_name(path, f"original{part}") for part in (1, 0))
            found.append(WeightNorm(owner, direction, scale, module[0].dim, _bias(owner, name)))
    return found


def forget_weight_norms(network: nn.Module) -> None:
    """Makes directions and scales of a network parameters like all others, in place; it is not to run any more."""
    for module in network.modules():
        if isinstance(module, ParametrizationList) and len(module) == 1 and isinstance(module[0], _WeightNorm):
            module[0] = nn.Identity()
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _Hook):
                del module._forward_pre_hooks[key]


def _bias(path: str, weight: str) -> str:
    return qualified_name(path, weight.replace("weight", "bias"))


@contextmanager
def weights_that_stay(network: nn.Module, changing: Collection[str]) -> Iterator[None]:
    """Keeps computed weights what they are while entries of their directions go, or become zero, in place.

    Args:
        network: whose parameters change.
        changing: names of those that do.
    """
    norms = [norm for norm in find_weight_norms(network) if norm.direction in changing]
    with torch.no_grad():
        for norm in norms:
            scale = network.get_parameter(norm.scale)
            scale.div_(norm.norm(network).view(scale.shape))
    yield
    with torch.no_grad():
        for norm in norms:
            scale = network.get_parameter(norm.scale)
            scale.mul_(norm.norm(network).view(scale.shape))
            _recompute(network.get_submodule(norm.module))


def _recompute(module: nn.Module) -> None:
    """Sets what old-style weight norm computed last, and the channel counts of a linear layer or convolution."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, _Hook):
            setattr(module, hook.name, hook.compute_weight(module))
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(weight, Tensor) and isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        first, second = weight.shape[0], weight.shape[1] * module.groups
        turned = isinstance(module, TRANSPOSED)
        module.in_channels, module.out_channels = (first, second) if turned else (second, first)
