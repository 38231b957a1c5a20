"""Evaluation on growing subsets of the samples: a candidate that is behind at a rung stops there.

Source: successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943) and racing (Maron and Moore 1994, "Hoeffding
races", NeurIPS 6). There many candidates are compared with each other at a rung; here one candidate is compared with a
threshold that its searcher set when it proposed it, so that nothing waits for anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.metrics import Objective
from autoprune.core.trial import Score, Stopped, value
from autoprune.evaluation.metrics import MetricAccumulator
from autoprune.graph.inputs import call_network
from autoprune.graph.recording.randomness import seeded
from autoprune.tasks.base import Batch, Task

_ORDER_SEED = 0


def evaluate_with_early_stopping(
    network: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    rungs: Sequence[int],
    stop_thresholds: Sequence[float | None],
    objective: Objective,
    teacher_logits: Sequence[Tensor] | None = None,
) -> Score | Stopped:
    """Returns the score on all samples with those at the rungs, or stops at the first rung above its threshold.

    Batches in memory are evaluated in a drawn order, always the same one, so that the first of them show what all would
    where samples lie sorted by class; whatever the order, the score on all samples is that of `evaluate`.

    Args:
        network: left in evaluation mode.
        task: gives loss and metric.
        batches: pairs of inputs and `[batch, …]` targets on the network's device.
        rungs: ascending numbers of samples; each is taken at the end of the batch in which it is reached.
        stop_thresholds: for each rung, the objective's value above which the evaluation stops; None or a missing one
            never stops.
        objective: what the thresholds are of.
        teacher_logits: `[batch, classes]` of each batch in the order of `batches`; see `evaluate`.
    """
    network.eval()
    metrics, passed = MetricAccumulator(task, teacher_logits), list[Score]()
    with torch.inference_mode(), seeded(0):
        for number, (inputs, targets) in _shuffled(batches):
            metrics.add(call_network(network, inputs), targets, len(inputs), number)
            while len(passed) < len(rungs) and metrics.samples >= rungs[len(passed)]:
                passed.append(metrics.score())
                threshold = stop_thresholds[len(passed) - 1] if len(passed) <= len(stop_thresholds) else None
                if threshold is not None and value(passed[-1], objective) > threshold:
                    return Stopped(metrics.score(tuple(passed[:-1])))
    return metrics.score(tuple(passed))


def _shuffled(batches: Iterable[Batch]) -> Iterator[tuple[int, Batch]]:
    """Yields batches with their numbers, in a drawn order where they lie in memory."""
    if not isinstance(batches, Sequence):
        yield from enumerate(batches)
        return
    for number in np.random.default_rng(_ORDER_SEED).permutation(len(batches)).tolist():
        yield number, batches[number]
