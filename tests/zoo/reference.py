"""The masked reference: the dense network with the channels that go set to zero, and every norm taken over the rest.

It is written apart from what it judges. Of a network's groups it knows their channel lists alone; it removes nothing,
follows nothing, and computes each norm over channels by a formula of its own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tests.zoo.networks import call

ChannelList = Sequence[tuple[str, int, Tensor]]
"""Qualified name of a tensor, one of its axes, and the `[gone]` entries along it that go."""

_NORM = re.compile(r"norm|grn|responsenorm", re.IGNORECASE)
_STANDARDISED = re.compile(r"stdconv|standardi[sz]ed|wsconv", re.IGNORECASE)


def masked(network: nn.Module, channels: ChannelList, inputs: Any) -> Any:
    """Returns what a network computes without some channels.

    What makes them is zero, what uses them ignores them, and norms over channels are taken over those that stay.

    Args:
        network: in float64 and evaluation mode; is left as it is.
        channels: every axis of every parameter and buffer that holds channels that go.
        inputs: as the network takes them.
    """
    twin = copy.deepcopy(network)
    gone = _erase(twin, channels)
    with in_double(), _Masking(twin, gone), torch.no_grad():
        return call(twin, inputs)


def _erase(network: nn.Module, channels: ChannelList) -> dict[int, Tensor]:
    """Sets entries to zero (variances to one); returns by identity of the tensor which are gone, of its shape."""
    tensors = {
        **dict(network.named_parameters(remove_duplicate=False)), **dict(network.named_buffers(remove_duplicate=False))
    }  # fmt: skip
    gone: dict[int, Tensor] = {}
    for name, dim, entries in channels:
        tensor = tensors[name]
        mask = gone.setdefault(id(tensor), torch.zeros(tensor.shape, dtype=torch.bool))
        mask.index_fill_(dim, entries, True)
        with torch.no_grad():
            tensor.index_fill_(dim, entries, 1.0 if name.endswith("running_var") else 0.0)
    return gone


@contextmanager
def default_double() -> Iterator[None]:
    """Makes new tensors in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def in_double() -> Iterator[None]:
    """Computes in float64 what a network says is to be done in float32, as some norms and rotations do."""
    with default_double(), _Double():
        yield


class _Double(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*args, **kwargs)


class _Masking(TorchFunctionMode):
    """Takes the statistics of norms over the channels that stay.

    Norms that torch has are computed here; inside of a network's own norms (`LlamaRMSNorm`, `GRN`) means and variances
    over the axis of the channels leave out those that go; standardised convolutions get their weight from here.
    """

    def __init__(self, network: nn.Module, gone: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._gone = gone
        self._stays: list[Tensor] = []  # `[channels]` of the norms of its own that run
        self._kernels: list[Tensor] = []  # the weights of the standardised convolutions that run
        for module in network.modules():
            if _STANDARDISED.search(type(module).__name__) and isinstance(module, nn.Conv2d):
                self._around(module, self._kernels, lambda module=module: self._standardised(module))
            elif _NORM.search(type(module).__name__) and not type(module).__module__.startswith("torch."):
                mask = [gone[id(p)] for p in module.parameters(recurse=False) if id(p) in gone]
                if mask:
                    stays = ~mask[0].flatten()
                    self._around(module, self._stays, lambda stays=stays: stays)

    def _around(self, module: nn.Module, stack: list[Tensor], value: Callable[[], Tensor]) -> None:
        def begin(*_: Any) -> None:
            stack.append(value())

        def end(*_: Any) -> None:
            stack.pop()

        module.register_forward_pre_hook(begin)
        module.register_forward_hook(end, always_call=True)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        own = getattr(self, f"_{name}", None)
        return own(func, *args, **kwargs) if own else func(*args, **kwargs)

    def _channels(self, x: Tensor, weight: Tensor | None, axes: int) -> Tensor:
        """Returns which entries of the last `axes` axes stay: by the norm's weight, else those not always zero."""
        if weight is not None:
            gone = self._gone.get(id(weight))
            return torch.ones_like(weight, dtype=torch.bool) if gone is None else ~gone
        return (x != 0).flatten(0, x.ndim - axes - 1).any(0)

    def _layer_norm(self, func: Any, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
                    bias: Tensor | None = None, eps: float = 1e-5, *_: Any) -> Tensor:  # fmt: skip
        axes = len(normalized_shape)
        stays = self._channels(input, weight, axes)
        over = tuple(range(-axes, 0))
        centred = (input - (input * stays).sum(over, keepdim=True) / stays.sum()) * stays
        scaled = centred / (centred.square().sum(over, keepdim=True) / stays.sum() + eps).sqrt()
        return _affine(scaled, weight, bias)

    def _rms_norm(self, func: Any, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
                  eps: float | None = None) -> Tensor:  # fmt: skip
        axes = len(normalized_shape)
        stays = self._channels(input, weight, axes)
        square = (input * stays).square().sum(tuple(range(-axes, 0)), keepdim=True) / stays.sum()
        return _affine(input * stays / (square + (torch.finfo(input.dtype).eps if eps is None else eps)).sqrt(), weight)

    def _group_norm(self, func: Any, input: Tensor, num_groups: int, weight: Tensor | None = None,
                    bias: Tensor | None = None, eps: float = 1e-5, *_: Any) -> Tensor:  # fmt: skip
        samples, channels = input.shape[:2]
        stays = self._channels(input.flatten(2).transpose(1, 2), weight, 1).view(1, num_groups, -1, 1)
        x = input.reshape(samples, num_groups, channels // num_groups, -1)
        count = (stays.sum(2, keepdim=True) * x.shape[3]).clamp(min=1)
        centred = (x - (x * stays).sum((2, 3), keepdim=True) / count) * stays
        scaled = centred / (centred.square().sum((2, 3), keepdim=True) / count + eps).sqrt()
        per_channel = (channels, *([1] * (input.ndim - 2)))
        return _affine(scaled.reshape(input.shape), *(t if t is None else t.view(per_channel) for t in (weight, bias)))

    def _reduce(self, func: Any, x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Leaves out of a mean or variance over the axis of the channels those that go, inside of a norm."""
        if self._stays and isinstance(dim, int | tuple | list):
            stays = self._stays[-1]
            for axis in (dim,) if isinstance(dim, int) else dim:
                if x.shape[axis] == len(stays):
                    x = x.index_select(axis, stays.nonzero().flatten())
        return func(x, *(() if dim is None else (dim,)), *args, **kwargs)

    _mean = _var = _std = _var_mean = _reduce

    def _conv2d(self, func: Any, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return func(input, self._kernels[-1] if self._kernels else weight, *args, **kwargs)

    def _standardised(self, conv: Any) -> Tensor:
        """Returns a convolution's weight, standardised per filter over the inputs that stay."""
        gone = self._gone.get(id(conv.weight), torch.zeros(conv.weight.shape, dtype=torch.bool))
        stays = ~gone.transpose(0, 1).flatten(1).all(1)
        filters = conv.weight[:, stays]
        mean = filters.mean((1, 2, 3), keepdim=True)
        if hasattr(conv, "eps"):  # timm's: the biased variance, and a gain in some
            scale = (filters.var((1, 2, 3), correction=0, keepdim=True) + conv.eps).sqrt()
        else:
            scale = filters.flatten(1).std(1)[:, None, None, None] + 1e-5
        gain = conv.gain * conv.scale if hasattr(conv, "gain") else 1.0
        kernel = torch.zeros_like(conv.weight)
        kernel[:, stays] = (filters - mean) / scale * gain
        return kernel


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def tensors_of(output: Any) -> list[Tensor]:
    """Lists the tensors of an output in order; caches of keys and values, which are no containers of torch, are not."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def relative_difference(found: Any, expected: Any) -> float:
    """Returns by how much outputs differ: of the tensors, the largest difference against the largest value.

    Raises:
        AssertionError: their shapes differ, there is nothing to compare, or one is finite where the other is not.
    """
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    assert any(two.numel() for _, two in pairs), "there is nothing to compare"
    worst = 0.0
    for one, two in pairs:
        assert one.shape == two.shape, f"{list(one.shape)} in place of {list(two.shape)}"
        finite = two.isfinite()
        assert torch.equal(finite, one.isfinite()), "finite elsewhere"
        if bool(finite.any()):
            one, two = one[finite].double(), two[finite].double()
            worst = max(worst, float((one - two).abs().max() / two.abs().max().clamp(min=1e-12)))
    return worst


def variation(output: Any) -> float:
    """Returns by how much the outputs for the first two samples, or detections, differ, against the largest value."""
    found = [t.double() for t in tensors_of(output) if t.is_floating_point() and t.ndim and len(t) > 1]
    return max(float((t[0] - t[1]).abs().max() / t.abs().max().clamp(min=1e-12)) for t in found)
