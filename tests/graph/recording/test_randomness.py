from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F

from autoprune.graph.recording.randomness import same_numbers, seeded


def test_numbers_are_the_same_for_a_seed_and_go_on_as_if_nothing_was_drawn() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002 - what networks draw from

    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = draw()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    with seeded(7):
        one = draw()
    with seeded(7):
        assert draw() == one
    with seeded(8):
        assert draw() != one
    assert draw() == expected


def test_a_draw_for_fewer_channels_is_that_for_more_without_them() -> None:
    x, keep = torch.randn(4, 10), [0, 1, 7]

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.5) * torch.randn_like(x) + torch.normal(x, 1.0) + F.rrelu(x, training=True)

    with same_numbers():
        whole = noisy(x)
    with same_numbers():
        part = noisy(x[:, keep])
    assert torch.allclose(whole[:, keep], part)
    assert not torch.allclose(whole, x)


def test_single_numbers_decide_as_they_are_drawn() -> None:
    found = set()
    for seed in range(100):
        with same_numbers(seed):
            found.add(bool(torch.rand(()) > 0.9))
    assert found == {True, False}
