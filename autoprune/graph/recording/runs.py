"""The runs of a network that are recorded: what it may do otherwise with other values, samples or random numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from autoprune.errors import TaskError
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import qualified_name
from autoprune.graph.recording.capture import record, run_repeatedly
from autoprune.graph.recording.recordings import CallSite, Recording

log = logging.getLogger(__name__)

DRAWS = 2
"""Twice as many runs with other random numbers, where what a network does may depend on them."""
_ALIKE = 1e-3
"""Outputs of two runs that differ by less, relative to the largest value, are the same but for rounding."""
_SHOWN = 3


@dataclass(frozen=True)
class RecordedRuns:
    """What a network did in several runs.

    Attributes:
        recordings: those that differ in what was done, that of the inputs in evaluation mode first.
        single: of one sample.
        remarks: what is to be known of them, a sentence each.
        unexplained: whether its output differs from run to run though torch draws no random numbers for it.
    """

    recordings: tuple[Recording, ...]
    single: Recording
    remarks: tuple[str, ...] = ()
    unexplained: bool = False


def record_runs(network: nn.Module, inputs: ModelInputs) -> RecordedRuns:
    """Records what a network does with inputs, with one sample, in training mode and, if it matters, with others.

    Other inputs matter where values of activations leave torch (`if x.mean() > 0`): some are drawn from the lowest
    and from the highest tenth of what was given. Other random numbers matter where the output differs from run to run.

    Args:
        network: is not changed.
        inputs: whatever it takes; a few samples.

    Raises:
        TaskError: it cannot be copied, or cannot run on the inputs.
    """
    first = record(network, inputs)
    alone = inputs.take(1)
    single = _record_other(network, alone)
    small, of_small = (inputs, first) if single is None else (alone, single)
    training = _record_other(network, inputs, training=True)
    others = [single, training]
    varies = _varies(network, small, of_small)
    if varies:
        others += [_record_other(network, inputs, seed=seed, runs_before=seed % 2) for seed in range(1, 1 + 2 * DRAWS)]
    if any(node in first.reached for node in first.leaving):
        generator = torch.Generator().manual_seed(0)
        drawn = [inputs.random_like(len(small), generator, tenth) for tenth in ((0.0, 0.1), (0.9, 1.0))]
        others += [_record_other(network, each) for each in drawn]
    recordings = [first]
    for other in others:
        if other is None:
            continue
        same = next((each for each in recordings if other.does_the_same(each, other.training)), None)
        if same is None:
            recordings.append(other)
        elif same is not other:
            same.compare_numbers(other)
    remarks = _remarks(first, recordings[1:], varies)
    if training is None:
        remarks += ("it does not run in training mode on these inputs: what it does there is not followed",)
    unexplained = varies and not any(_draws(node) for node in first.graph.nodes)
    return RecordedRuns(tuple(recordings), of_small, remarks, unexplained)


def _record_other(
    network: nn.Module, inputs: ModelInputs, training: bool = False, seed: int = 0, runs_before: int = 0
) -> Recording | None:
    """Records another run of a network that has run before; None where it cannot do that."""
    try:
        return record(network, inputs, training, seed, runs_before)
    except TaskError as fault:
        log.info("%s", fault)
        return None


def _varies(network: nn.Module, inputs: ModelInputs, first: Recording) -> bool:
    """Tells whether a network's output differs from run to run."""
    outputs = [list(first.outputs), *run_repeatedly(network, inputs)]
    return any(not _alike(outputs[0], other) for other in outputs[1:])


def _alike(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    if [each.shape for each in ones] != [each.shape for each in others]:
        return False
    for one, other in zip(ones, others, strict=True):
        if one.is_floating_point() and one.numel():
            scale = one.abs().nan_to_num(0, 0, 0).max().clamp_min(1e-6) * _ALIKE
            if not torch.allclose(one, other, rtol=0, atol=float(scale), equal_nan=True):
                return False
    return True


def _remarks(first: Recording, others: Sequence[Recording], varies: bool) -> tuple[str, ...]:
    found: dict[str, None] = {}
    if varies:
        drawing = dict.fromkeys(first.sites[node].line for node in first.graph.nodes if _draws(node))
        lines = _bracketed([line for line in drawing if line][:_SHOWN])
        found[
            f"its output differs from run to run{lines}: pruned and dense network are compared with the same random "
            "numbers"
        ] = None
    for other in others:
        parting = first.parting(other) if not other.training else None
        if parting is not None:
            line = _bracketed([_decision(first, parting).line])
            found[f"what it does differs between runs{line}: all that was seen is followed"] = None
    return tuple(found)


def _bracketed(lines: Sequence[str]) -> str:
    return f" ({', '.join(lines)})" if any(lines) else ""


def _draws(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    dropping = "dropout" in name and node.op == "call_function"
    return dropping or name.startswith(("rand", "normal", "bernoulli", "multinomial", "uniform_", "exponential_"))


def _decision(recording: Recording, parting: fx.Node) -> CallSite:
    """Returns where values last left torch before an operation that another run did otherwise, else where that is."""
    site = recording.sites.get(parting, CallSite("", ""))
    for node in recording.graph.nodes:
        if node is parting:
            break
        site = recording.left.get(node, site)
    return site


def undecided(network: nn.Module, runs: RecordedRuns) -> Iterator[tuple[CallSite, list[str]]]:
    """Yields where a network may take a way that no run took, through a part of it that never ran.

    That is where values of activations leave torch inside of a module with such a part, or around any such part where
    what is done differs from run to run for no reason that is seen. Nothing is known of what happens there.

    Args:
        network: that ran.
        runs: what it did.

    Returns:
        Where it was, and names of modules that did not run.
    """
    ran = {name for each in runs.recordings for name in each.modules}
    read = {name for each in runs.recordings for name in each.parameters.values()}
    unseen = [
        name
        for name, module in network.named_modules()
        if name not in ran
        and module._parameters
        and not any(qualified_name(name, key) in read for key in module._parameters)
    ]
    for recording in runs.recordings if unseen else ():
        for node, site in recording.left.items():
            inside = [name for name in unseen if not site.scope or name.startswith(f"{site.scope}.")]
            if inside and _of_numbers(recording, node):
                yield site, inside
    for name in unseen if runs.unexplained else ():
        yield CallSite(runs.recordings[0].caller(name), ""), [name]


def _of_numbers(recording: Recording, node: fx.Node) -> bool:
    """Tells whether a value was computed from the network's inputs through floating-point numbers."""
    seen, waiting = set(), [node]
    while waiting:
        each = waiting.pop()
        if each in seen or each not in recording.reached:
            continue
        seen.add(each)
        if isinstance(recording.values.get(each), torch.Size) and each not in recording.kept:
            return True
        waiting += each.all_input_nodes
    return False
