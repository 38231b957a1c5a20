"""Collects gradients of the loss by weights, and by gates on output channels."""

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
from autoprune.graph.layers import Layer, qualified_name
from autoprune.pruning.criteria.base import Gradients
from autoprune.pruning.patterns import filters

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of a batch to its mean loss."""


class GradientCollector:
    """Sums, over batches, of absolute and squared gradients of some layers' weights."""

    def __init__(self, network: nn.Module, layers: Sequence[Layer], loss: Loss) -> None:
        self._network, self._loss = network, loss
        self._names = {layer.name: layer.weight_name for layer in layers}
        self._totals: dict[str, tuple[Tensor, Tensor]] = {}
        self._batches = 0

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Runs one batch forward and backward in evaluation mode."""
        gradients = _differentiate(self._network, list(self._names.values()), self._loss, inputs, targets)
        self._batches += 1
        for name, gradient in gradients.items():
            # In half precision small gradients would be lost in the sum.
            gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            if name not in self._totals:
                self._totals[name] = (torch.zeros_like(gradient), torch.zeros_like(gradient))
            magnitude, square = self._totals[name]
            magnitude.add_(gradient.abs())
            square.addcmul_(gradient, gradient)

    def compute(self) -> dict[str, Gradients]:
        """Returns the means over the batches by layer."""
        sums = {layer: self._totals[name] for layer, name in self._names.items()}
        return {layer: Gradients(*(total / self._batches for total in found)) for layer, found in sums.items()}


@dataclass(frozen=True)
class _Gate:
    """A factor of 1 on each output channel of a layer, behind its batch norm if one follows, else behind itself.

    Attributes:
        norm: name of the batch norm, and which of its channels are the layer's.
    """

    layer: Layer
    norm: tuple[str, ChannelMap] | None

    @property
    def parameters(self) -> tuple[str, str]:
        owner = self.norm[0] if self.norm else self.layer.name
        return qualified_name(owner, "weight"), qualified_name(owner, "bias")

    def derivatives(self, products: list[Tensor]) -> Tensor:
        """Sums parameters times their gradients by channel: `[channels of the norm, or of the layer]`.

        A gate scales weight and bias alike, so that the loss's derivative by it is the sum of both products.
        """
        rows = products if self.norm else [filters(self.layer, products[0]).flatten(1).sum(1), *products[1:]]
        return torch.stack(rows).sum(0)


class GateCollector:
    """Sums, over batches, of squared derivatives of the loss by gates on some layers' output channels."""

    def __init__(self, network: nn.Module, graph: ChannelGraph, layers: Sequence[Layer], loss: Loss) -> None:
        self._network, self._loss = network, loss
        self._parameters = dict(network.named_parameters())
        self._gates = {layer.name: _Gate(layer, self._norm(graph, layer)) for layer in layers}
        self._totals: dict[str, Tensor] = {}
        self._batches = 0

    def _norm(self, graph: ChannelGraph, layer: Layer) -> tuple[str, ChannelMap] | None:
        found = find_batch_norm(graph, layer)
        return found if found and qualified_name(found[0], "weight") in self._parameters else None

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Runs one batch forward and backward in evaluation mode."""
        wanted = {name for gate in self._gates.values() for name in gate.parameters if name in self._parameters}
        gradients = _differentiate(self._network, sorted(wanted), self._loss, inputs, targets)
        self._batches += 1
        for layer, gate in self._gates.items():
            names = [name for name in gate.parameters if name in gradients]
            products = [(self._parameters[name].detach() * gradients[name]).double() for name in names]
            square = gate.derivatives(products).square()
            self._totals[layer] = self._totals[layer] + square if layer in self._totals else square

    def compute(self) -> dict[str, Tensor]:
        """Returns the means over the batches by layer, each `[out]`."""
        means = {}
        for layer, gate in self._gates.items():
            mean = self._totals[layer] / self._batches
            means[layer] = gate.norm[1].mean_per_channel(mean) if gate.norm else mean
        return means


def _differentiate(
    network: nn.Module, names: Sequence[str], loss: Loss, inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """Returns the gradient of a batch's loss by each named parameter, in evaluation mode; the network is not touched.

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
