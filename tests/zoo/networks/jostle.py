"""Random values in place of constant ones, so that no branch of a network is silent at its initialisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_STATISTICS = ("running_mean", "running_var", "weight", "bias")  # the last two: of frozen batch norms


def jostle(network: nn.Module, seed: int) -> None:
    """Draws every parameter and batch-norm statistic whose entries are all the same, in place.

    Half of the layers of the zoos begin with a branch that adds nothing (a layer scale of 1e-6, a last norm of zeros)
    and with norms that do nothing; in a trained network neither is so. Entries that scale become 0.5 to 1.5, entries
    that shift become normal with deviation 0.1; a single number that is not near zero changes by a tenth at most.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            _draw(name, parameter, rng)
        for name, buffer in network.named_buffers():
            if name.rpartition(".")[2] in _STATISTICS:
                _draw(name, buffer, rng)


def settle_statistics(network: nn.Module, run: Callable[[], object]) -> None:
    """Sets the statistics of batch norms to those of one run, in place.

    With random ones activations grow from layer to layer until biases are lost in rounding, or fade.
    """
    norms = [
        module for module in network.modules() if isinstance(module, _BatchNorm) and module.running_var is not None
    ]
    if not norms:
        return
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        run()
    for norm, momentum in zip(norms, before, strict=True):
        norm.eval()
        norm.momentum = momentum
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.zero_()


def _draw(name: str, tensor: Tensor, rng: torch.Generator) -> None:
    if not tensor.is_floating_point() or tensor.numel() == 0 or bool((tensor != tensor.flatten()[0]).any()):
        return
    value, key = float(tensor.flatten()[0]), name.rpartition(".")[2]
    if tensor.numel() == 1 and abs(value) > 1e-2:
        factor = 0.9 + 0.2 * torch.rand(tensor.shape, generator=rng)
        tensor.mul_(factor.to(tensor))
    elif value != 0 or (key == "weight" and tensor.ndim == 1):  # a norm's zeros are to scale a branch
        tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
    else:
        tensor.copy_(0.1 * torch.randn(tensor.shape, generator=rng))
