from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from autoprune.graph.rules.base import name_of


def pad(x: Tensor) -> Tensor:
    """A user's own function that happens to have a known name."""
    return x.roll(1, 1)


def test_functions_are_known_by_name_only_where_they_come_from_a_library() -> None:
    graph = fx.Graph()
    names = [name_of(graph.call_function(f)) for f in (F.pad, torch.cat, operator.add, F.max_pool2d, pad)]
    assert names == ["pad", "cat", "add", "max_pool2d", f"{__name__}.pad"]
