"""Counted costs against formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from tests.zoo.counting import count_costs, count_flops


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # their kernels are others
def test_recurrent_layers_are_counted_by_gates_steps_and_weights(dtype: torch.dtype) -> None:
    lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True).to(dtype).eval()
    first, second = 4 * 5 * (3 + 5), 4 * 5 * (10 + 5)
    assert count_flops(lstm, torch.randn(1, 7, 3, dtype=dtype)) == 2 * 7 * 2 * (first + second)
    gru = nn.GRU(3, 5).to(dtype).eval()
    packed = pack_sequence([torch.randn(length, 3, dtype=dtype) for length in (4, 2)])
    assert count_flops(gru, packed) == 2 * (4 + 2) * 3 * 5 * (3 + 5)
    cell = nn.GRUCell(3, 5).to(dtype)
    assert count_flops(cell, torch.randn(2, 3, dtype=dtype)) == 2 * 2 * 3 * 5 * (3 + 5)


def test_attention_is_counted_whatever_kernel_would_run() -> None:
    width, length = 8, 6
    layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True).eval()
    projections, products, hidden = 4 * width**2, 2 * length * width, 2 * width * 16
    assert count_flops(layer, torch.randn(1, length, width)) == 2 * length * (projections + products + hidden)


def test_shared_tensors_are_counted_once() -> None:
    tied = nn.ModuleDict({"embed": nn.Embedding(7, 4), "decode": nn.Linear(4, 7)})
    tied["decode"].weight = tied["embed"].weight
    network = nn.Sequential(tied["embed"], tied["decode"], nn.BatchNorm1d(3))
    costs = count_costs(network.eval(), torch.zeros(1, 3, dtype=torch.long))
    assert costs == {"flops": 2 * 3 * 28, "params": 28 + 7 + 6, "size": 4 * (28 + 7 + 6 + 6) + 8}
