"""Random scores, which every criterion must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.pruning.criteria.base import Criterion, LayerStatistics

# The probability of a 1.
_KEEP = 0.5


def uniform_draw(statistics: LayerStatistics) -> Tensor:
    """Independent draws between 0 and 1: every choice of structures is equally likely.

    Returns:
        `[structures]` scores.
    """
    return torch.from_numpy(statistics.generator("random").random(len(statistics.weight))).to(statistics.weight.device)


def bernoulli_draw(statistics: LayerStatistics) -> Tensor:
    """Independent coin tosses, 1 or 0; of equal ones the lower index goes first, as always.

    Returns:
        `[structures]` scores.
    """
    heads = statistics.generator("bernoulli").random(len(statistics.weight)) < _KEEP
    return torch.from_numpy(heads).to(statistics.weight)


RANDOM = Criterion("random", uniform_draw, drawn=True)
BERNOULLI = Criterion("bernoulli", bernoulli_draw, drawn=True)
