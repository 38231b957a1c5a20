"""Counts the floating-point operations of the mathematics, whatever kernel computes it.

Two for each multiply-add of convolutions, linear layers, matrix products, attention and recurrent layers, as
`torch.utils.flop_counter` counts them, with formulas for the kernels that it passes over: attention on the CPU, and the
libraries' recurrent layers. While operations are counted, torch's fused fast path of transformer layers is off, so that
their parts are seen. The counter acts on its own thread alone (torch's one hooks the modules of all of them), and needs
no gradients.

Sizes are those of what is run: attention over a sequence costs the square of its length, a recurrent layer its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def _product(one: Tensor, other: Tensor) -> int:
    """`[…, n, k]` by `[…, k, m]`: one multiply-add for each entry of the first and each column of the second."""
    return 2 * one.numel() * (other.size(-1) if other.dim() > 1 else 1)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """`[batch, heads, length, size]`, keys and values of as many heads or fewer; a causal mask saves nothing."""
    return 2 * query.shape[:-1].numel() * key.size(-2) * (query.size(-1) + value.size(-1))


def _recurrent(inputs: Tensor, *weights: Tensor) -> int:
    """Every weight matrix is used once for each sample and step of the `[…, features]` inputs."""
    return 2 * inputs.shape[:-1].numel() * sum(weight.numel() for weight in weights if weight.dim() == 2)


_FORMULAS: Mapping[str, Callable[..., int]] = {
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
    "_scaled_dot_product_attention_math_for_mps": _attention,
    "mkldnn_rnn_layer": lambda inputs, w_ih, w_hh, *_: _recurrent(inputs, w_ih, w_hh),
    "_cudnn_rnn": lambda inputs, weights, *_, **__: _recurrent(inputs, *weights),
    "miopen_rnn": lambda inputs, weights, *_, **__: _recurrent(inputs, *weights),
    "_lstm_mps": lambda inputs, _, weights, *__: _recurrent(inputs, *weights),
    "_addmm_activation": lambda _, one, other, **__: _product(one, other),
    "addbmm": lambda _, one, other, **__: _product(one, other),
    "addmv": lambda _, one, other, **__: _product(one, other),
    "mv": _product,
    "dot": _product,
    "_grouped_mm": lambda one, other, *_, **__: _product(one, other),
}


class FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Counts what is computed while it is active; see `counting`.

    Attributes:
        flops: how many floating-point operations by now.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            with self:  # an operator that takes functions: what they do counts
                return func(*args, **kwargs)
        packet = func._overloadpacket
        own = _FORMULAS.get(packet.__name__) if func.namespace == "aten" else None
        if own is None and packet not in flop_registry:
            with self:  # in inference mode composite operations come whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        found = func(*args, **kwargs)
        flops = 0
        if own is not None:
            flops = own(*args, **kwargs)
        elif packet in flop_registry:
            flops = int(flop_registry[packet](*args, **kwargs, out_val=found))
        self.flops += flops
        self.observe(packet.__name__, args, found, flops)
        return found

    def observe(self, name: str, args: tuple[Any, ...], found: Any, flops: int) -> None:
        """Follows one operation; does nothing here.

        Args:
            name: of the operation, without its overload.
            args: its positional arguments.
            found: its result.
            flops: what it was counted as.
        """


class _EveryFunctionSeen(TorchFunctionMode):
    """Does nothing, but where a function mode is active torch's modules leave out their fused fast path."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def counting(counter: FlopCounter | None = None) -> Iterator[FlopCounter]:
    """Counts the floating-point operations of this thread for a while, by a new counter or the given one."""
    with _EveryFunctionSeen(), counter or FlopCounter() as active:
        yield active
