"""Compares thinned networks with masked ones: they have to give the same outputs, with the same random numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.errors import AutopruneError, TaskError, describe
from autoprune.graph.channels import FollowedRun
from autoprune.graph.costs import count_bytes
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.recording.randomness import same_numbers
from autoprune.graph.recording.running import mode, run
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masked_run import run_masked

log = logging.getLogger(__name__)

# Largest accepted difference of outputs, relative to their largest value: sums in another order, per precision.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
    torch.float16: 5e-2,
    torch.bfloat16: 2e-1,
}


class ThinningError(AutopruneError):
    """The thinned network does not compute what the masked one computes; a fault of autoprune, never shipped."""


_SMALL = 2**28
"""Bytes of networks that are compared in double precision."""


def check_thinned(thinned: nn.Module, network: nn.Module, graph: ChannelGraph, kept: Kept, inputs: ModelInputs) -> None:
    """Checks in evaluation mode that a thinned network gives the masked one's outputs, whichever way it takes.

    Args:
        thinned: the smaller one.
        network: the dense one.
        graph: of the dense one.
        kept: by group, the channels that stay.
        inputs: whatever they take.

    Raises:
        ThinningError: they do not.
    """
    with mode(thinned, training=False), mode(network, training=False):
        _check_any(thinned, network, graph, kept, inputs, _runs(graph, training=False))


def check_on_fresh_inputs(
    thinned: nn.Module, network: nn.Module, graph: ChannelGraph, kept: Kept, inputs: ModelInputs
) -> None:
    """Checks in evaluation and in training mode, on drawn inputs, that a thinned network does what the masked one does.

    There is one sample more than given, and a small network is compared in double precision, unless the dense network
    cannot run so, or does other things than were recorded.

    Args:
        thinned: the smaller one, with weights as `thin` left them; is not changed.
        network: the dense one.
        graph: of the dense one.
        kept: by group, the channels that stay.
        inputs: whatever they take; drawn ones are in their range.

    Raises:
        ThinningError: they do not.
    """
    for training in (False, True):
        for small, dense, given in _attempts(thinned, network, inputs):
            with mode(small, training), mode(dense, training):
                runs = [each for each in _runs(graph, training) if _repeats(dense, graph, given, each)]
                if runs:
                    _check_any(small, dense, graph, kept, given, runs)
                    break
        else:
            log.info("not compared in %s mode: the network does other things there", _MODES[training])


_MODES = ("evaluation", "training")


def _attempts(
    thinned: nn.Module, network: nn.Module, inputs: ModelInputs
) -> Iterator[tuple[nn.Module, nn.Module, Any]]:
    """Yields copies of both networks, and inputs, on which to compare them; the first that serve are enough."""
    generator = torch.Generator().manual_seed(0)
    more, as_many = (inputs.random_like(len(inputs) + extra, generator) for extra in (1, 0))
    if count_bytes(network) <= _SMALL:
        yield copy_network(thinned).double(), copy_network(network).double(), more.to(torch.float64)
    for given in (more, as_many):
        yield copy_network(thinned), copy_network(network), given


def _runs(graph: ChannelGraph, training: bool) -> list[FollowedRun]:
    """Returns all runs, first those in one mode; one in the other mode stands in where it does the same there."""
    return sorted(graph.flow.runs, key=lambda each: each.recording.training != training)


def _repeats(network: nn.Module, graph: ChannelGraph, inputs: ModelInputs, followed: FollowedRun) -> bool:
    """Tells whether the dense network does with some inputs what was recorded."""
    with suppress(ThinningError, TaskError):
        compare_runs(
            lambda: run(copy_network(network), inputs.clone()),
            lambda: _guarded(lambda: run_masked(network, graph, {}, inputs, followed)),
        )
        return True
    return False


def _guarded(call: Callable[[], Any]) -> Any:
    """Returns what a call does; what the user's operations raise is a `ThinningError`."""
    try:
        return call()
    except AutopruneError:
        raise
    except Exception as fault:
        raise ThinningError(f"what was recorded does not run: {describe(fault)}") from fault


def _check_any(
    thinned: nn.Module,
    network: nn.Module,
    graph: ChannelGraph,
    kept: Kept,
    inputs: ModelInputs,
    runs: Sequence[FollowedRun],
) -> None:
    """Checks that a thinned network does what one of some runs does with the channels masked.

    Raises:
        ThinningError: it does not; of several faults the first is said.
    """
    faults = []
    for each in runs:
        # Only its consumers ignore a channel: one of zeros may become infinite on its way, divided by its variance.
        masked = partial(run_masked, network, graph, kept, inputs, each)
        try:
            compare_runs(lambda: run_thinned(thinned, inputs), partial(_guarded, masked))
            return
        except ThinningError as fault:
            faults.append(fault)
    raise faults[0]


def check_same_outputs(thinned: nn.Module, masked: nn.Module, inputs: Any) -> None:
    """Checks that both networks give the same outputs in evaluation mode.

    Args:
        thinned: the smaller one.
        masked: the one with zeros.
        inputs: whatever they take, see `ModelInputs.of`.

    Raises:
        ThinningError: they do not.
    """
    given = ModelInputs.of(inputs)
    with mode(thinned, training=False), mode(masked, training=False):
        compare_runs(lambda: run_thinned(thinned, given), lambda: given.clone().call(masked))


def run_thinned(thinned: nn.Module, inputs: ModelInputs) -> Any:
    """Returns a thinned network's outputs, in the mode in which it is.

    Raises:
        ThinningError: it cannot run.
    """
    try:
        return run(thinned, inputs.clone())
    except TaskError as fault:
        raise ThinningError(f"thinned, {fault}") from fault


def compare_runs(found: Callable[[], Any], expected: Callable[[], Any]) -> None:
    """Checks that two runs with the same random numbers give the same outputs but for rounding.

    Raises:
        ThinningError: they do not.
    """
    with torch.no_grad():
        with same_numbers():
            one = found()
        with same_numbers():
            other = expected()
        compare_outputs(one, other)


def compare_outputs(found: Any, expected: Any) -> None:
    """Checks that the tensors in two outputs are the same but for rounding.

    What was recorded lacks those inside of objects of the user's own, such as a cache, which come last.

    Raises:
        ThinningError: they are not.
    """
    ones, others = ([leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor)] for each in (found, expected))
    for one, other in zip(ones, others, strict=False):
        _compare_tensors(one, other)


def _compare_tensors(found: Tensor, expected: Tensor) -> None:
    if found.shape != expected.shape:
        raise ThinningError(f"the thinned network gives {list(found.shape)}, the masked one {list(expected.shape)}")
    if not expected.is_floating_point() or expected.numel() == 0:
        return
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        raise ThinningError("the thinned network's output is finite elsewhere than the masked one's")
    scale = float(expected[finite].abs().amax().clamp_min(1e-6)) if bool(finite.any()) else 1.0
    difference = float((found - expected)[finite].abs().max()) if bool(finite.any()) else 0.0
    if difference > TOLERANCE.get(expected.dtype, 1e-3) * scale:
        raise ThinningError(
            f"the thinned network's output differs from the masked one's by {difference:.3g} of {scale:.3g}"
        )
