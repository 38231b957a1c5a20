"""Prefixes of the network that the levels of a sweep have in common with the dense one, computed once.

The levels of one group change nothing before the first operation that uses its weights. Up to there the samples that
re-estimate the batch norm and those that are evaluated go through the dense network once for the whole sweep, a little
further with every group, and each level runs from there on.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from autoprune.core.recipe import Recipe
from autoprune.core.trial import Score
from autoprune.errors import TaskError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.recalibration import estimating_norms, recalibrate
from autoprune.graph.costs import measure_operations
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.recording.capture import record
from autoprune.graph.recording.prefix import PartialRunner, Values, crosses_state, shared_prefix
from autoprune.pruning.surgery.copying import copy_network
from autoprune.tasks.base import Batch

log = logging.getLogger(__name__)


class Stream:
    """Batches on their way through a network, all of them before the same operation."""

    def __init__(self, network: nn.Module, batches: Iterable[Batch]) -> None:
        self._inputs = [ModelInputs.of(inputs) for inputs, _ in batches]  # held: nothing else gets their identities
        self._parts = PartialRunner(_traced(network, self._inputs[0].take(2)))
        self.position = self._parts.first
        self._values: dict[int, Values] = {_identity(inputs): self._parts.begin(inputs) for inputs in self._inputs}

    def advance(self, position: int) -> None:
        """Brings all batches to a later operation."""
        with torch.no_grad():
            for key, values in self._values.items():
                self._values[key] = self._parts.advance(values, self.position, position)
        self.position = position

    def values(self, inputs: ModelInputs) -> Values:
        """Returns a copy of the values of one of the batches; views of one another are so still."""
        return copy.deepcopy(self._values[_identity(inputs)])


def _identity(inputs: ModelInputs) -> int:
    """Returns what tells a batch from others: the identity of its first tensor."""
    return id(next(inputs.tensors()))


class ContinuedNetwork(nn.Module):
    """A network that is called with the batches of a stream, and goes on from where the stream has come."""

    def __init__(self, traced: fx.GraphModule, stream: Stream) -> None:
        super().__init__()
        self.traced = traced
        self._parts, self._stream = PartialRunner(traced), stream

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the outputs for one of the stream's batches."""
        return self._parts.finish(self._stream.values(ModelInputs(args, kwargs)), self._stream.position)


def estimating_copy(network: nn.Module) -> nn.Module:
    """Returns a copy whose batch norm uses the statistics of each batch, as in `recalibrate`."""
    twin = copy_network(network).eval()
    for norm in estimating_norms(twin):
        norm.train()
    return twin


def runs_in_parts(network: nn.Module, inputs: Any) -> bool:
    """Returns whether a network run in two traced parts gives the same outputs, and draws no random numbers.

    Args:
        network: in the mode in question; its calls may change it.
        inputs: samples as it takes them, see `ModelInputs.of`.
    """
    inputs = ModelInputs.of(inputs)
    before = _random_state(inputs.device)
    try:
        parts = PartialRunner(_traced(network, inputs))
        middle = (parts.first + len(parts.nodes)) // 2
        with torch.no_grad():
            found = parts.finish(parts.advance(parts.begin(inputs.clone()), parts.first, middle), middle)
            expected = inputs.clone().call(network)  # second, so that it differs where calls leave something behind
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


# Of all values held at one operation; where they are more, the group's levels are evaluated by themselves.
MOST_BYTES = 2**30
_NOTHING_ELSE = Recipe(0)


@dataclass(frozen=True)
class Cut:
    """The operation at which the levels of a group begin to differ from the dense network.

    Attributes:
        position: an index into the operations of the traced network.
        macs: multiply-adds of one sample before it.
    """

    position: int
    macs: int


class Prefixes:
    """Evaluates the levels of a sweep from where they begin to differ from the dense network.

    Args:
        grid: group to the kept widths to evaluate.
        samples: validation samples to evaluate on.
    """

    def __init__(self, evaluator: Evaluator, grid: Mapping[str, Sequence[int]], recipe: Recipe, samples: int) -> None:
        self._evaluator, self._grid, self._recipe, self._samples = evaluator, grid, recipe, samples
        self._broken = False

    @cached_property
    def cuts(self) -> Mapping[str, Cut]:
        """The cuts of those groups, in the order of the grid, whose levels are worth evaluating from there on.

        Left out are groups with nothing to compute before them, those that begin before an earlier group, those whose
        values at the cut take more than `MOST_BYTES`, and those where a module with buffers is called on both sides.
        None has a cut where the recipe changes weights everywhere, where batches are not kept in memory, and where the
        traced network does not do what the network does, or draws random numbers.
        """
        if not self._possible():
            return {}
        dense, inputs = self._traced_dense, self._evaluator.prunable.inputs
        costs, parts = measure_operations(dense, inputs), PartialRunner(dense)
        samples = sum(len(inputs) for batches in self._batches for inputs, _ in batches)
        cuts: dict[str, Cut] = {}
        reached = parts.first
        for group, widths in self._grid.items():
            position = self._differs({group: min(widths)}) if widths else 0
            size = samples * sum(costs.size_bytes[i] for i in parts.alive(position))
            worth = position >= reached and costs.macs_before[position] > 0
            if worth and size <= MOST_BYTES and not crosses_state(dense, position):
                cuts[group] = Cut(position, costs.macs_before[position])
                reached = position
        return cuts

    @cached_property
    def dense(self) -> nn.Module:
        """The dense network after the recipe."""
        return self._evaluator.prune({}, self._recipe)

    def evaluate(self, group: str, width: int) -> Score | None:
        """Returns the score of a level, or None where it has to be evaluated by itself.

        Groups are best taken in the order of the grid: for an earlier one the samples begin at the front again.
        """
        cut = self.cuts.get(group)
        if cut is None or self._broken:
            return None
        recipe = _NOTHING_ELSE if self._estimates else self._recipe
        traced = _traced(self._evaluator.prune({group: width}, recipe), self._evaluator.prunable.inputs)
        if shared_prefix(self._traced_dense, traced) < cut.position or not self._reach(cut.position):
            return None
        evaluated, *estimated = self._streams
        for stream in estimated:
            recalibrate(ContinuedNetwork(traced, stream), self._batches[1])
        return self._evaluator.evaluate_network(ContinuedNetwork(traced, evaluated), self._samples)

    @property
    def _traced_dense(self) -> fx.GraphModule:
        return self._evaluator.prunable.graph.flow.traced

    @property
    def _estimates(self) -> bool:
        """Whether the recipe re-estimates the batch norm."""
        estimates = self._evaluator.data.estimates
        return bool(estimates and self._recipe.recalibrate and not self._recipe.reconstruct)

    @cached_property
    def _batches(self) -> list[Iterable[Batch]]:
        """The batches that are evaluated, and those that re-estimate the batch norm if any do."""
        evaluated = self._evaluator.data.batches("validation", self._samples)
        return [evaluated, self._evaluator.data.for_recipe(self._recipe)] if self._estimates else [evaluated]

    @cached_property
    def _streams(self) -> list[Stream]:
        """The streams, one for each of the batches."""
        networks = [self.dense, estimating_copy(self._evaluator.prunable.network)]
        return [Stream(network, batches) for network, batches in zip(networks, self._batches, strict=False)]

    def _possible(self) -> bool:
        prunable = self._evaluator.prunable
        if prunable.inputs.lists_samples:  # what was traced takes as many samples and no others
            return False
        if self._recipe.trains or not all(isinstance(batches, Sequence) for batches in self._batches):
            return False
        network = estimating_copy(prunable.network) if self._estimates else copy_network(prunable.network)
        return runs_in_parts(network, prunable.inputs)

    def _differs(self, allocation: Mapping[str, int]) -> int:
        """Returns the operation at which the network of an allocation begins to differ from the dense one, or 0."""
        prunable = self._evaluator.prunable
        try:
            network = prunable.structures.prune(prunable.network, prunable.importance, allocation)
            return min(
                shared_prefix(self._traced_dense, _traced(network, prunable.inputs)),
                len(self._traced_dense.graph.nodes) - 1,
            )
        except Exception as fault:  # what is wrong with it is said when it is evaluated by itself
            log.info("sensitivity: %s cannot be compared with the dense network: %s", allocation, fault)
            return 0

    def _reach(self, position: int) -> bool:
        """Brings the streams to an operation; where that fails levels are evaluated by themselves from then on."""
        if any(stream.position > position for stream in self._streams):
            del self._streams
        try:
            for stream in self._streams:
                stream.advance(position)
        except Exception as fault:  # whatever the user's network raises, or too little memory
            log.warning("sensitivity: levels are evaluated by themselves from here on: %s", fault)
            self._broken = True
            self.__dict__.pop("_streams", None)
        return not self._broken


def _traced(network: nn.Module, inputs: Any) -> fx.GraphModule:
    """Returns what a network does with some inputs as a graph that can be run in parts.

    Raises:
        TaskError: its output cannot be made from what was recorded.
    """
    recording = record(network, ModelInputs.of(inputs))
    if not recording.replayable:
        raise TaskError("its output is of a kind of its own")
    return recording.traced
