"""Where the output of a layer is added to something else, as a residual branch is to its shortcut."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

_ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")


@dataclass(frozen=True)
class Sum:
    """An addition that a layer's output goes into.

    Attributes:
        other: what it is added to, of the shape of the layer's output.
        slope: `[out]` by how much the layer's output is multiplied on its way, by batch norm.
    """

    other: Tensor
    slope: Tensor


Adder = Callable[[str, Sum], None]
"""Takes a layer's name and the addition that its output goes into."""


@contextmanager
def adding(network: nn.Module, layers: Collection[str], take: Adder) -> Iterator[None]:
    """For one forward pass in evaluation mode, shows what the outputs of some layers are added to.

    Between layer and addition there may be batch norm and modules that return what they are given. What else becomes of
    an output, a layer called twice, and a sum with anything of another shape are not shown.
    """
    follower = _Follower(take)
    hooks = [network.get_submodule(name).register_forward_hook(partial(follower.begin, name)) for name in layers]
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    hooks += [module.register_forward_hook(follower.normalised) for module in norms]
    try:
        with follower:
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Follower(TorchFunctionMode):
    """Knows outputs by being the very tensors that a later call is given."""

    def __init__(self, take: Adder) -> None:
        super().__init__()
        self._take = take
        self._followed: dict[int, tuple[str, Tensor, Tensor]] = {}
        self._called: set[str] = set()

    def begin(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if name not in self._called:
            features = output.shape[-1] if isinstance(module, nn.Linear) else output.shape[1]
            self._followed[id(output)] = (name, output, output.new_ones(features))
        self._called.add(name)

    def normalised(self, module: _BatchNorm, args: tuple[Any, ...], output: Tensor) -> None:
        found = self._found(args[0]) if args else None
        if found is None or module.running_var is None:
            return
        name, _, slope = found
        spread = torch.rsqrt(module.running_var + module.eps)
        slope = slope * (spread if module.weight is None else spread * module.weight)
        self._followed[id(output)] = (name, output, slope)

    def _found(self, tensor: Any) -> tuple[str, Tensor, Tensor] | None:
        found = self._followed.get(id(tensor))
        return found if found is not None and found[1] is tensor else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _ADDITIONS and len(args) == 2 and not kwargs:
            for one, other in (args, args[::-1]):
                found = self._found(one)
                if found is not None and isinstance(other, Tensor) and other.shape == one.shape:
                    self._take(found[0], Sum(other, found[2]))
        return func(*args, **kwargs)
