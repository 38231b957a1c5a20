"""Re-estimation of the batch norm's statistics on a few samples, as a pruned network needs it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.graph.inputs import call_network
from autoprune.tasks.base import Batch


def recalibrate(network: nn.Module, batches: Iterable[Batch]) -> None:
    """Re-estimates the batch norm's statistics, in place, as mean and variance over all values of all batches.

    Each batch is normalised by its own statistics, and their moments are pooled exactly, each value counted once,
    whatever the sizes of the batches. What has one value per channel is normalised by what was pooled before it, or by
    the statistics that were there, as it has no variance of its own. Norms that are not called keep what they have.
    Everything but the batch norm stays in evaluation mode.

    Source: Li et al. 2020 (EagleEye), arXiv:2007.02491, section 3.3 (adaptive batch normalisation); there with
    momentum, here nothing is forgotten.
    """
    network.eval()
    norms = estimating_norms(network)
    if not norms:
        return
    with ExitStack() as stack, torch.no_grad():
        moments = [stack.enter_context(_Moments(norm)) for norm in norms]
        for inputs, _ in batches:
            call_network(network, inputs)
        for each in moments:
            each.write()


def estimating_norms(network: nn.Module) -> list[_BatchNorm]:
    """Returns the batch norms that keep statistics, which `recalibrate` estimates anew."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


class _Moments:
    """Pools the moments of a norm's inputs while it is entered; the norm then takes each batch's own statistics.

    With a momentum of 1 the norm itself leaves the statistics of a batch where its own are kept; they are read there.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        self._norm, self._momentum = norm, norm.momentum
        self._count, self._mean, self._squares = 0, torch.zeros(()), torch.zeros(())  # squares: of differences from it
        self._before = [norm.running_mean.clone(), norm.running_var.clone()]  # type: ignore[union-attr]  # it keeps them

    def __enter__(self) -> _Moments:
        self._hooks = [
            self._norm.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._norm.register_forward_hook(self._add, with_kwargs=True),
        ]
        self._norm.reset_running_stats()
        self._norm.momentum = 1.0
        self._norm.train()
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._norm.momentum = self._momentum
        self._norm.eval()

    def write(self) -> None:
        """Gives the norm the pooled statistics, or those that it had where it was not called."""
        self._store(*self._pooled())

    def _pooled(self) -> tuple[Tensor, Tensor]:
        if self._count < 2:
            return self._before[0], self._before[1]
        return self._mean, self._squares / (self._count - 1)

    def _store(self, mean: Tensor, variance: Tensor) -> None:
        self._norm.running_mean.copy_(mean)  # type: ignore[union-attr]  # it keeps them
        self._norm.running_var.copy_(variance)  # type: ignore[union-attr]

    def _begin(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _values_per_channel(_input(args, kwargs)) < 2:
            self._store(*self._pooled())
            norm.eval()

    def _add(self, norm: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        values = _input(args, kwargs)
        count = _values_per_channel(values)
        if not count:
            return
        if count < 2:
            norm.train()
            mean = values.detach().double().flatten()
            squares = torch.zeros_like(mean)
        else:
            mean = self._norm.running_mean.double()  # type: ignore[union-attr]  # it keeps them
            squares = self._norm.running_var.double() * (count - 1)  # type: ignore[union-attr]
        total = self._count + count
        shift = mean - self._mean.to(mean)
        self._mean = self._mean.to(mean) + shift * (count / total)
        self._squares = self._squares.to(mean) + squares + shift.square() * (self._count * count / total)
        self._count = total


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    values: Tensor = args[0] if args else kwargs["input"]
    return values


def _values_per_channel(values: Tensor) -> int:
    return values.numel() // max(1, values.size(1)) if values.dim() > 1 else 0
