"""Criteria by the distance of a structure's weights to the others'."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics

# Distances held in memory at a time.
_AT_ONCE = 2**22


def summed_distances(statistics: LayerStatistics) -> Tensor:
    """Sum of Euclidean distances to the layer's other structures; small means that others can stand in for it.

    Source: He et al. 2019 (FPGM), arXiv:1811.00250, section 3; as there, the sum of distances stands in for the
    distance to the geometric median.

    Returns:
        `[structures]` scores.
    """
    vectors = statistics.weight.flatten(1)
    if vectors.shape[1] == 1:
        return _on_a_line(vectors[:, 0])
    rows = max(1, _AT_ONCE // len(vectors))
    # The faster computation by matrix products leaves equal filters a little apart, so that ties would break by chance.
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(some, vectors, compute_mode=mode).sum(1) for some in torch.split(vectors, rows)])


def _on_a_line(values: Tensor) -> Tensor:
    """Returns summed absolute differences of each of `[n]` values to all others; exactly the same for equal values.

    From one value to the next larger one the sum grows by their gap for every value at or below, and falls by it for
    every value above.
    """
    distinct, index, counts = torch.unique(values, return_inverse=True, return_counts=True)
    below = counts.cumsum(0)[:-1]
    rises = distinct.diff() * (2 * below - len(values))
    first = ((distinct - distinct[0]) * counts).sum()
    return torch.cat([first[None], first + rises.cumsum(0)]).clamp_min(0)[index]


FPGM = Criterion("fpgm", summed_distances)
