"""Gradients of the loss, batch by batch, of which only sums over batches are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.errors import UserError
from autoprune.graph.capture import mode
from autoprune.graph.channel_locations import ChannelMap, find_batch_norm
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Gradients
from autoprune.pruning.patterns import filters

Loss = Callable[[Tensor, Tensor], Tensor]


class GradientCollector:
    """Sums over batches of absolute and squared gradients of some layers' weights."""

    def __init__(self, network: nn.Module, layers: Sequence[Layer], loss: Loss) -> None:
        self._network, self._loss = network, loss
        self._names = {layer.name: parameter_name(layer.name, "weight") for layer in layers}
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._batches = 0

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Runs one batch forward and backward in evaluation mode."""
        gradients = derive(self._network, list(self._names.values()), self._loss, inputs, targets)
        self._batches += 1
        for name, gradient in gradients.items():
            # Sums in half precision would lose what is small.
            gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            if name not in self._sums:
                self._sums[name] = (torch.zeros_like(gradient), torch.zeros_like(gradient))
            magnitude, square = self._sums[name]
            magnitude.add_(gradient.abs())
            square.addcmul_(gradient, gradient)

    def compute(self) -> dict[str, Gradients]:
        """Layer name to means over the batches."""
        sums = {layer: self._sums[name] for layer, name in self._names.items()}
        return {layer: Gradients(*(total / self._batches for total in found)) for layer, found in sums.items()}


@dataclass(frozen=True)
class _Gate:
    """Where a layer's gate lies: behind a batch norm (with which of its channels are the layer's), or behind itself."""

    layer: Layer
    norm: tuple[str, ChannelMap] | None

    @property
    def names(self) -> tuple[str, str]:
        owner = self.norm[0] if self.norm else self.layer.name
        return parameter_name(owner, "weight"), parameter_name(owner, "bias")

    def derivatives(self, products: list[Tensor]) -> Tensor:
        """`[channels of the norm, or of the layer]` out of products of parameters and their gradients."""
        rows = products if self.norm else [filters(self.layer, products[0]).flatten(1).sum(1), *products[1:]]
        return torch.stack(rows).sum(0)


class GateCollector:
    """Sums over batches of squared derivatives by gates on the output channels of some layers."""

    def __init__(self, network: nn.Module, graph: ChannelGraph, layers: Sequence[Layer], loss: Loss) -> None:
        self._network, self._loss = network, loss
        self._known = dict(network.named_parameters())
        self._gates = {layer.name: _Gate(layer, self._norm(graph, layer)) for layer in layers}
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def _norm(self, graph: ChannelGraph, layer: Layer) -> tuple[str, ChannelMap] | None:
        found = find_batch_norm(graph, layer)
        return found if found and parameter_name(found[0], "weight") in self._known else None

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Runs one batch forward and backward in evaluation mode."""
        wanted = {name for gate in self._gates.values() for name in gate.names if name in self._known}
        gradients = derive(self._network, sorted(wanted), self._loss, inputs, targets)
        self._batches += 1
        for layer, gate in self._gates.items():
            pairs = [(self._known[name].detach(), gradients[name]) for name in gate.names if name in gradients]
            square = gate.derivatives([(value * gradient).double() for value, gradient in pairs]).square()
            self._sums[layer] = self._sums[layer] + square if layer in self._sums else square

    def compute(self) -> dict[str, Tensor]:
        """Layer name to `[out]` means over the batches."""
        means = {layer: total / self._batches for layer, total in self._sums.items()}
        maps = {layer: gate.norm[1] if gate.norm else None for layer, gate in self._gates.items()}
        return {
            layer: mean if (channel_map := maps[layer]) is None else channel_map.mean_per_channel(mean)
            for layer, mean in means.items()
        }


def derive(network: nn.Module, names: Sequence[str], loss: Loss, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The gradient of a batch's loss by each of the named parameters, in evaluation mode; the network is not touched.

    Raises:
        UserError: the loss cannot be differentiated.
    """
    if not names:
        return {}
    parameters = dict(network.named_parameters())
    with mode(network, training=False), torch.enable_grad():
        leaves = {name: parameters[name].detach().requires_grad_() for name in names}
        found = loss(functional_call(network, leaves, (inputs,)), targets)
        if not found.requires_grad:
            raise UserError(
                "the task's loss cannot be differentiated by the network's weights, which this pruner needs; "
                "compute it from the outputs by torch's operations, or choose a pruner without gradients"
            )
        gradients = torch.autograd.grad(found, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), gradients, strict=True)
    return {name: torch.zeros_like(leaf) if found is None else found for (name, leaf), found in pairs}


def parameter_name(layer: str, name: str) -> str:
    """The qualified name of a layer's parameter; the network itself may be the layer."""
    return f"{layer}.{name}" if layer else name
