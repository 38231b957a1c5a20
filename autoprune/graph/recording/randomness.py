"""Random numbers that are the same in every run: of a network that is run twice, and of a dense and a thinned one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

_FILLED = frozenset(
    "rand rand_like randn randn_like uniform uniform_ normal_ normal_functional exponential exponential_ log_normal "
    "log_normal_ cauchy cauchy_".split()
)
"""Operators whose results are random numbers alone."""
_DROPPING = frozenset(("bernoulli", "bernoulli_"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws the random numbers of torch, NumPy and Python from a seed; afterwards all are where they were before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's network draws from it
    devices = list(range(torch.cuda.device_count())) if _uses_cuda() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def same_numbers(seed: int = 0) -> Iterator[None]:
    """Gives networks of different widths the same random numbers, call by call.

    All entries of one draw are the same number, so that it does not matter how many there are; a dropout drops nothing
    but scales. Single numbers, and what depends on the number of entries otherwise (permutations, integers), are drawn
    as ever, from a seed.
    """
    with seeded(seed), _plain_kernels(), _SameNumbers(seed):
        yield


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Keeps a GPU's kernels from drawing random numbers inside."""
    if not _uses_cuda():
        yield
        return
    with torch.backends.cudnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        yield


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch leaves it untyped


class _SameNumbers(TorchDispatchMode):
    """Replaces the random numbers in torch's operators."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = random.Random(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **given)
        name = func.overloadpacket.__name__
        if name == "native_dropout":
            kept = torch.ones_like(args[0], dtype=torch.bool)
            return (args[0] / (1 - args[1]) if args[2] and args[1] < 1 else args[0].clone()), kept
        if name.startswith("rrelu_with_noise"):
            return torch.ops.aten.leaky_relu(args[0], (args[2] + args[3]) / 2)
        if name in _DROPPING:
            return func(*args, **given).fill_(1)
        number = self._numbers.uniform(0.25, 0.75)
        torch.manual_seed(int(1e6 * number))
        result = func(*args, **given)
        if not isinstance(result, Tensor) or result.numel() < 2:
            return result
        if name == "normal":
            mean, deviation = args[0], args[1] if len(args) > 1 else given.get("std", 1.0)
            return result.copy_(mean + number * deviation)
        return result.fill_(number) if name in _FILLED else result
