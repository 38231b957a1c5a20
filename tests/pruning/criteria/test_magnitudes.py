from __future__ import annotations

import torch

from autoprune.pruning.criteria.base import LayerStatistics
from autoprune.pruning.criteria.magnitudes import l1_norm, l2_norm

LAYER = LayerStatistics("conv", torch.tensor([[[3.0, -4.0]], [[0.0, 0.0]], [[-1.0, 1.0]]]))


def test_the_l1_norm_sums_absolute_weights_of_each_filter() -> None:
    assert l1_norm(LAYER).tolist() == [7.0, 0.0, 2.0]


def test_the_l2_norm_is_the_euclidean_one() -> None:
    torch.testing.assert_close(l2_norm(LAYER), torch.tensor([5.0, 0.0, 2**0.5]))
