"""Collects gradients of the loss by weights, and by gates on output channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoprune.errors import UserError
from autoprune.graph.channel_locations import ChannelMap, find_batch_norm
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.inputs import arguments_for
from autoprune.graph.layers import Layer, qualified_name
from autoprune.graph.modules.weight_norm import find_weight_norms
from autoprune.pruning.criteria.base import Gradients
from autoprune.pruning.patterns import filters

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of a batch to its mean loss."""


class GradientCollector:
    """Sums, over batches, of absolute and squared gradients of some layers' weights."""

    def __init__(self, network: nn.Module, layers: Sequence[Layer], loss: Loss) -> None:
        self._network, self._loss = network, loss
        self._weights = {layer.name: layer.weight_name for layer in layers}  # layers may share a weight
        self._totals: dict[str, Gradients] = {}
        self._batches = 0

    def update(self, inputs: Any, targets: Tensor) -> None:
        """Runs one batch forward and backward."""
        gradients = _differentiate(
            self._network, list(dict.fromkeys(self._weights.values())), self._loss, inputs, targets
        )
        self._batches += 1
        for name, gradient in gradients.items():
            # In half precision small gradients would be lost in the sum.
            gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            zeros = torch.zeros_like(gradient)
            totals = self._totals.setdefault(name, Gradients(zeros, zeros.clone()))
            totals.magnitude.add_(gradient.abs())
            totals.square.addcmul_(gradient, gradient)

    def compute(self) -> dict[str, Gradients]:
        """Returns the means over the batches by layer."""
        count = self._batches
        means = {key: Gradients(each.magnitude / count, each.square / count) for key, each in self._totals.items()}
        return {name: means[weight] for name, weight in self._weights.items()}


@dataclass(frozen=True)
class _Gate:
    """A factor of 1 on each output channel of a layer, behind its batch norm if one follows, else behind itself.

    Attributes:
        norm: which of the batch norm's channels are the layer's; None where none follows.
        parameters: names of the weight, and the bias if there is one, that the gate scales.
    """

    layer: Layer
    norm: ChannelMap | None
    parameters: tuple[str, ...]


class GateCollector:
    """Sums, over batches, of squared derivatives of the loss by gates on some layers' output channels."""

    def __init__(self, network: nn.Module, graph: ChannelGraph, layers: Sequence[Layer], loss: Loss) -> None:
        self._network, self._loss = network, loss
        self._parameters = dict(network.named_parameters())
        self._weight_norms = {norm.direction: norm for norm in find_weight_norms(network)}
        self._gates = [self._gate(layer, find_batch_norm(graph, layer)) for layer in layers]
        self._totals: dict[str, Tensor] = {}
        self._batches = 0

    def _gate(self, layer: Layer, norm: tuple[str, ChannelMap] | None) -> _Gate:
        owner, channel_map = norm or ("", None)
        computed = self._weight_norms.get(layer.weight_name)
        if not owner and computed is not None:  # its derivative by the direction is none along the direction
            weight = computed.scale if computed.dim == 0 and layer.kind != "transposed" else computed.direction
            return _Gate(layer, None, tuple(name for name in (weight, computed.bias) if name in self._parameters))
        names = (
            [qualified_name(owner, key) for key in ("weight", "bias")]
            if owner
            else list(dict.fromkeys((layer.weight_name, layer.bias_name)))  # the same where it is no `…weight`
        )
        return _Gate(layer, channel_map, tuple(name for name in names if name in self._parameters))

    def update(self, inputs: Any, targets: Tensor) -> None:
        """Runs one batch forward and backward."""
        wanted = sorted({name for gate in self._gates for name in gate.parameters})
        gradients = _differentiate(self._network, wanted, self._loss, inputs, targets)
        self._batches += 1
        for gate in self._gates:
            products = [(self._parameters[name].detach() * gradients[name]).double() for name in gate.parameters]
            if gate.norm is None:
                products[0] = filters(gate.layer, products[0]).flatten(1).sum(1)
            # A gate scales weight and bias alike, so that the loss's derivative by it is the sum of both products.
            square = torch.stack(products).sum(0).square()
            self._totals[gate.layer.name] = self._totals.get(gate.layer.name, 0) + square

    def compute(self) -> dict[str, Tensor]:
        """Returns the means over the batches by layer, each `[out]`."""
        means = {}
        for gate in self._gates:
            mean = self._totals[gate.layer.name] / self._batches
            means[gate.layer.name] = gate.norm.mean_per_channel(mean) if gate.norm else mean
        return means


def _differentiate(
    network: nn.Module, names: Sequence[str], loss: Loss, inputs: Any, targets: Tensor
) -> dict[str, Tensor]:
    """Returns the gradient of a batch's loss by each named parameter; the network is not touched.

    Raises:
        UserError: the loss cannot be differentiated.
    """
    if not names:
        return {}
    parameters = dict(network.named_parameters())
    with torch.enable_grad():
        leaves = {name: parameters[name].detach().requires_grad_() for name in names}
        args, kwargs = arguments_for(inputs)
        found = loss(functional_call(network, leaves, args, kwargs), targets)
        if not found.requires_grad:
            raise UserError(
                "the task's loss cannot be differentiated by the network's weights, which this pruner needs; "
                "compute it from the outputs by torch's operations, or choose a pruner without gradients"
            )
        gradients = torch.autograd.grad(found, list(leaves.values()), materialize_grads=True)
    return dict(zip(names, gradients, strict=True))
