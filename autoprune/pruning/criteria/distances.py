"""How far a structure's weights are from the others'."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, Evidence


def summed_distances(evidence: Evidence) -> Tensor:
    """Sum of Euclidean distances to the layer's other structures; small means that others can stand in for it.

    Source: He et al. 2019 (FPGM), arXiv:1811.00250, section 3; as there, the sum of distances stands in for the
    distance to the geometric median.
    """
    vectors = evidence.weight.flatten(1)
    # The quicker way over products of matrices leaves equal filters a little apart, and ties would break by chance.
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


FPGM = Criterion("fpgm", summed_distances)
