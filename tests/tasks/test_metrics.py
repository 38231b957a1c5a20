from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoprune.tasks.metrics import applicable_top_k, top_1, top_k


def test_top_1_is_one_where_the_largest_output_is_the_target() -> None:
    outputs = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [-3.0, -2.0, -1.0]])
    assert top_1(outputs, torch.tensor([1, 2, 2])).tolist() == [1.0, 0.0, 1.0]


def test_top_k_is_one_where_fewer_than_k_outputs_come_before_the_target() -> None:
    """Against sorting, with many ties: of equal outputs the lower class comes first."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randint(4, (200, 7), generator=generator).float()
    targets = torch.randint(7, (200,), generator=generator)
    for k in range(1, 8):
        expected = []
        for row, target in zip(outputs.tolist(), targets.tolist(), strict=True):
            ranked = sorted(range(7), key=lambda index: (-row[index], index))
            expected.append(float(target in ranked[:k]))
        assert top_k(outputs, targets, k).tolist() == expected
    assert torch.equal(top_k(outputs, targets, 1), top_1(outputs, targets))


def test_outputs_that_are_not_numbers_are_never_right() -> None:
    outputs = torch.tensor([[float("nan")] * 3, [1.0, float("nan"), 0.0]])
    assert top_k(outputs, torch.tensor([1, 0]), 1).tolist() == [0.0, 0.0]
    assert top_k(outputs, torch.tensor([1, 0]), 2).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("outputs", "targets", "applicable"),
    [
        (torch.zeros(3, 6), torch.tensor([0, 1, 5]), True),
        (torch.zeros(3, 5), torch.tensor([0, 1, 4]), False),
        (torch.zeros(3, 6), torch.tensor([0, 1, 6]), False),
        (torch.zeros(3, 6), torch.tensor([0, 1, -100]), False),
        (torch.zeros(3, 6), torch.tensor([0, 1]), False),
        (torch.zeros(3, 6), torch.tensor([0.0, 1.0, 2.0]), False),
        (torch.zeros(3, 6), torch.zeros(3, 6), False),
        (torch.zeros(3, 6, 2), torch.zeros(3, 2, dtype=torch.int64), False),
        (torch.zeros(3, 6, dtype=torch.int64), torch.tensor([0, 1, 2]), False),
    ],
)
def test_top_5_applies_to_class_indices_among_more_than_five(
    outputs: Tensor, targets: Tensor, applicable: bool
) -> None:
    assert applicable_top_k(outputs, targets, 5) is applicable
