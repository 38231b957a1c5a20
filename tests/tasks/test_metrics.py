from __future__ import annotations

import torch

from autoprune.tasks.metrics import top_1


def test_top_1_is_one_where_the_largest_output_is_the_target() -> None:
    outputs = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [-3.0, -2.0, -1.0]])
    assert top_1(outputs, torch.tensor([1, 2, 2])).tolist() == [1.0, 0.0, 1.0]
