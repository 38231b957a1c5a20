"""The number of threads on the CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from threadpoolctl import ThreadpoolController
from torch import nn

from autoprune.config import Experiment
from autoprune.core.trial import Candidate
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.recording.running import mode
from autoprune.searchers.base.searcher import Searcher

# Several threads must be this much faster than one to be taken: where other work takes a core away they wait for each
# other, and are then up to ten times slower than one.
WORTHWHILE = 1.5
_SAMPLES = 32
_REPEATS = 3


def settle_threads(experiment: Experiment, network: nn.Module, inputs: Any) -> Experiment:
    """Returns the experiment with its number of threads fixed, and torch set to it.

    Where the experiment leaves it open, one thread and as many as torch would take are timed on the network.

    Args:
        inputs: samples on its device (see `ModelInputs.of`); they are repeated to a batch of a common size.
    """
    threads = experiment.run.threads
    if threads is None:
        given = ModelInputs.of(inputs)
        threads = 1 if given.device.type == "cuda" else _faster(network, given)
        run = experiment.run.model_copy(update={"threads": threads})
        experiment = experiment.model_copy(update={"run": run})
    torch.set_num_threads(threads)
    return experiment


class SingleThreaded:
    """Asks a searcher with one thread for its linear algebra (numpy's and scipy's, not torch's).

    Its matrices are small: with two threads, on two idle cores, `auto` takes 58 ms for a candidate in place of 33. What
    it finds might also depend on how many cores there are.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher, self._libraries = searcher, ThreadpoolController().select(user_api="blas")

    def ask(self) -> Sequence[Candidate]:
        """Returns what it proposes next: one candidate or none."""
        with self._libraries.limit(limits=1):
            return self._searcher.ask(1)


def _faster(network: nn.Module, inputs: ModelInputs) -> int:
    many = torch.get_num_threads()
    if many == 1:
        return 1
    batch = inputs.take(_SAMPLES)
    with mode(network, training=False):
        try:
            seconds = {threads: min(_time(network, batch, threads) for _ in range(_REPEATS)) for threads in (1, many)}
        except Exception:  # a network that cannot run is reported where it is analyzed
            return 1
    return many if seconds[many] * WORTHWHILE <= seconds[1] else 1


def _time(network: nn.Module, batch: ModelInputs, threads: int) -> float:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        start = time.perf_counter()
        batch.call(network)
        return time.perf_counter() - start
