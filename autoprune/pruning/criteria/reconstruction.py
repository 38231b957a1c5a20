"""The criterion by LASSO: how much of a consumer's output a structure reconstructs."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics

# Squared distance, relative to their size, below which two structures contribute the same.
ALIKE = 1e-10


def lasso_entry(statistics: LayerStatistics) -> Tensor | None:
    """Largest penalty at which LASSO regression of a consumer's output still uses the structure.

    With Z_i = X_i W_i what structure i contributes to the consumer's output, and Y their sum, the coefficients b
    minimise |Y - sum_i b_i Z_i|² / 2 + penalty |b|_1, the scale such that the Z_i have a mean square of 1. All of this
    is in the inner products of the Z_i. Where the paper raises the penalty until as many structures as wanted remain,
    the whole path of solutions is followed here once (least-angle regression, Efron et al. 2004), from the penalty at
    which nothing is used down to none: the structures that enter first are those that remain longest, so one score
    serves every width. (The two differ only where a coefficient that has entered leaves again on the way.)

    Structures that contribute nothing, or nothing but what others before them do, never enter and score 0. Those that
    contribute exactly the same share one coefficient and one score: between them the LASSO has no preference.

    Source: He et al. 2017, arXiv:1707.06168, the first of their two steps (channel selection). There each W_i has unit
    norm, and what was pruned before shows in X; here the Z_i are as they are, so that it does not matter which share of
    a channel's scale lies in its weights, and each group is scored in the dense network.

    Returns:
        `[structures]` scores, or None without contributions.
    """
    if statistics.contributions is None:
        return None
    gram = statistics.contributions.cpu().numpy()
    if not np.isfinite(gram).all():
        return torch.full((len(gram),), torch.nan, dtype=torch.float64)
    return torch.from_numpy(entry_penalties(gram))


def entry_penalties(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns `[structures]` penalties at which each first gets a coefficient on the way down, 0 where it never does.

    Args:
        gram: `[structures, structures]` inner products of the contributions; the target is their sum.
    """
    size = np.trace(gram) / len(gram)
    if size <= 0:
        return np.zeros(len(gram))
    first, classes = np.unique(_representatives(gram), return_inverse=True)
    scaled = gram / size
    return _path(scaled[np.ix_(first, first)], scaled[first].sum(1))[classes]


def _representatives(gram: NDArray[np.float64]) -> NDArray[np.intp]:
    """Returns for each structure the index of the first one that contributes the same."""
    squares = np.diag(gram)
    distances = squares[:, None] + squares - 2 * gram
    first: NDArray[np.intp] = np.argmax(distances <= ALIKE * np.maximum(squares[:, None], squares), axis=1)
    return first


def _path(gram: NDArray[np.float64], correlations: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path_gram  # takes a second

    with warnings.catch_warnings():
        # It warns of structures that add nothing to those before them, which stay outside, as they should.
        warnings.simplefilter("ignore", ConvergenceWarning)
        penalties, _, coefficients = lars_path_gram(
            correlations, gram, n_samples=1, method="lasso", max_iter=20 * len(gram)
        )
    used = coefficients != 0
    # A coefficient grows from the knot at which it is still zero.
    knots = np.maximum(used.argmax(1) - 1, 0)
    return np.where(used.any(1), penalties[knots], 0.0)


RECONSTRUCTION = Criterion("reconstruction", lasso_entry, frozenset({"consumers"}))
