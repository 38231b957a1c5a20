"""Batches that go through a network part by part, and networks that go on from where they have come."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from autoprune.evaluation.judging import estimating_norms
from autoprune.graph.prefix import Parts, Values
from autoprune.graph.trace import trace
from autoprune.pruning.copying import copy_network
from autoprune.tasks.base import Batch

log = logging.getLogger(__name__)


class Stream:
    """Batches on their way through a network, all of them at the same place."""

    def __init__(self, network: nn.Module, batches: Iterable[Batch]) -> None:
        self._parts = Parts(trace(network))
        self.place = self._parts.first
        self._inputs = [inputs for inputs, _ in batches]  # held, so that nothing else gets their identities
        self._values: dict[int, Values] = {id(inputs): self._parts.begin(inputs) for inputs in self._inputs}

    def advance(self, place: int) -> None:
        """Brings all batches to a later place."""
        with torch.no_grad():
            for key, values in self._values.items():
                self._values[key] = self._parts.advance(values, self.place, place)
        self.place = place

    def values(self, inputs: Tensor) -> Values:
        """A copy of the values of one batch, in which views of one another are so still."""
        return copy.deepcopy(self._values[id(inputs)])


class Continued(nn.Module):
    """A network that is called with the batches of a stream, and goes on from where the stream has come."""

    def __init__(self, traced: fx.GraphModule, stream: Stream) -> None:
        super().__init__()
        self.traced = traced
        self._parts, self._stream = Parts(traced), stream

    def forward(self, inputs: Tensor) -> Any:
        return self._parts.finish(self._stream.values(inputs), self._stream.place)


def estimating_copy(network: nn.Module) -> nn.Module:
    """A copy whose batch norm goes by the statistics of each batch, as `recalibrate` lets it."""
    twin = copy_network(network).eval()
    for norm in estimating_norms(twin):
        norm.train()
    return twin


def runs_in_parts(network: nn.Module, inputs: Tensor) -> bool:
    """Whether a network gives the same outputs when it is traced and run in two parts, and draws no random numbers.

    Args:
        network: in the mode in question; whatever its calls change is changed.
        inputs: `[batch, …]` samples.
    """
    before = _random_state(inputs.device)
    try:
        parts = Parts(trace(network))
        middle = (parts.first + len(parts.nodes)) // 2
        with torch.no_grad():
            found = parts.finish(parts.advance(parts.begin(inputs.clone()), parts.first, middle), middle)
            expected = network(inputs.clone())  # second, so that it differs where calls leave something behind
    except Exception as fault:  # whatever the user's network raises in parts, or on a few samples
        log.info("the network cannot be run in parts: %s", fault)
        return False
    return torch.equal(before, _random_state(inputs.device)) and _close(found, expected)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _close(found: Any, expected: Any) -> bool:
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return all(
        not isinstance(other, Tensor) or torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        for one, other in pairs
    )
