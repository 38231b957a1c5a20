from __future__ import annotations

import contextlib

import torch
from torch import nn

from autoprune.core.recipe import TrainingPlan
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training.loop import arranged, train


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_kernels_lie_channels_last_inside_and_as_before_afterwards_even_after_an_error() -> None:
    network = _network()
    parameters = list(network.parameters())
    values, strides = [p.detach().clone() for p in parameters], [p.stride() for p in parameters]
    with contextlib.suppress(KeyboardInterrupt), arranged(network, True) as arrange:
        assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert arrange(torch.zeros(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)
        assert arrange(torch.zeros(2, 3)).is_contiguous()
        raise KeyboardInterrupt
    assert all(after is before for after, before in zip(network.parameters(), parameters, strict=True))
    assert [p.stride() for p in parameters] == strides
    assert all(torch.equal(p, value) for p, value in zip(parameters, values, strict=True))


def test_network_that_lies_channels_last_already_stays_so() -> None:
    network = _network().to(memory_format=torch.channels_last)
    with arranged(network, True):
        pass
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_training_arranges_kernels_and_batches_if_asked_and_learns_the_same() -> None:
    seen: list[bool] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = _network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kernel: torch.Tensor = self.network[0].weight
            seen.append(all(part.is_contiguous(memory_format=torch.channels_last) for part in (x, kernel)))
            return self.network(x)  # type: ignore[no-any-return]

    weights = []
    for channels_last in (False, True):
        generator = torch.Generator().manual_seed(0)
        data = [(torch.randn(8, 3, 4, 4, generator=generator), torch.tensor([0, 1] * 4))]
        torch.manual_seed(0)
        network = Watched()
        plan = TrainingPlan(steps=3, channels_last=channels_last)
        train(network, SimpleTask(Watched, data, data), plan)
        weights.append(network.network[0].weight.detach())
    assert seen == [False] * 3 + [True] * 3
    assert weights[1].is_contiguous()
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-5)
