"""How long a forward pass takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def measure_latency(networks: Sequence[nn.Module], inputs: Tensor, seconds: float = 1.0) -> list[float]:
    """Median milliseconds of one forward pass of each network on the same inputs.

    The networks take turns, so that a machine that slows down slows all of them. They are left in evaluation mode.

    Args:
        inputs: `[batch, …]` on the networks' device.
        seconds: how long to measure in all, after a warm-up; every network runs at least five times.
    """
    times: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for network in networks:
            network.eval()
            for _ in range(3):
                _timed(network, inputs)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[-1]) < 5:
            for network, seen in zip(networks, times, strict=True):
                seen.append(_timed(network, inputs))
    return [1e3 * statistics.median(seen) for seen in times]


def _timed(network: nn.Module, inputs: Tensor) -> float:
    start = time.perf_counter()
    network(inputs)
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - start
