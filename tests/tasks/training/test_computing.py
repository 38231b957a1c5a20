from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.base import Hook
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training.computing import arranged, check_precision
from autoprune.tasks.training.loop import train
from tests.tasks.training.tasks import DATA, network, task_of, trained

PLAN = TrainingPlan(steps=7)


def test_gradients_are_on_whatever_the_caller_has_switched_off() -> None:
    expected = trained(PLAN)
    with torch.no_grad():
        assert torch.equal(trained(PLAN), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.equal(trained(PLAN), expected)
        assert torch.is_inference_mode_enabled()


def test_networks_and_batches_that_were_made_under_inference_mode_are_trained() -> None:
    with torch.inference_mode():
        made, data = network(), [(inputs.clone(), targets.clone()) for inputs, targets in DATA]
    assert data[0][0].is_inference()
    train(made, task_of(train_data=data), PLAN)
    assert torch.equal(torch.cat([parameter.detach().flatten() for parameter in made.parameters()]), trained(PLAN))
    assert not any(tensor.is_inference() for tensor in made.state_dict().values())


def test_parameters_that_modules_share_stay_shared() -> None:
    with torch.inference_mode():
        tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
        tied[1].weight = tied[0].weight
        tied[2].bias.requires_grad_(False)
    train(tied, task_of(), TrainingPlan(steps=1))
    assert tied[1].weight is tied[0].weight
    assert not tied[2].bias.requires_grad


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32() -> None:
    kinds: set[torch.dtype] = set()

    def watch(network: nn.Module, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        kinds.add(outputs.dtype)

    weights = trained(TrainingPlan(steps=7, precision="bf16"), [Hook(loss_term=watch)])
    assert kinds == {torch.bfloat16}
    assert weights.dtype == torch.float32
    assert not torch.equal(weights, trained(PLAN))
    torch.testing.assert_close(weights, trained(PLAN), rtol=0.1, atol=0.01)


def test_a_precision_that_is_not_to_be_had_is_refused() -> None:
    fp16 = TrainingPlan(steps=1, precision="fp16")
    with pytest.raises(TaskError, match="fp16 needs a GPU, but the network is on the CPU; take bf16"):
        trained(fp16)
    with pytest.raises(TaskError, match=r"but 0\.weight is fp16 itself; call network\.float\(\)"):
        check_precision(fp16, network().half(), torch.device("cuda"))
    with pytest.raises(TaskError, match="no mixed precision on 'meta' devices"):
        check_precision(TrainingPlan(precision="bf16"), network(), torch.device("meta"))


@pytest.mark.gpu
def test_fp16_trains_on_a_gpu_with_its_scaler() -> None:
    losses: list[float] = []
    watch = Hook(after_step=lambda network, step, steps, loss: losses.append(loss))
    train(network().cuda(), task_of(), TrainingPlan(steps=20, rate=0.1, precision="fp16"), [watch])
    assert losses[-1] < losses[0]


def _convolutional() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_kernels_lie_channels_last_inside_and_as_before_afterwards_even_after_an_error() -> None:
    network = _convolutional()
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
    network = _convolutional().to(memory_format=torch.channels_last)
    with arranged(network, True):
        pass
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_training_arranges_kernels_and_batches_if_asked_and_learns_the_same() -> None:
    seen: list[bool] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = _convolutional()

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
