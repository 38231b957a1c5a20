from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.base import Hook
from autoprune.tasks.training.loop import device_of, seeded, train
from autoprune.tasks.training.optimizers import rate_of
from tests.tasks.training.tasks import DATA, network, network_of_one, task_of, trained

GOLDEN = [-0.03747075, 0.35079575, -0.18833727, -0.81794614, 0.04380844, -0.01647680]


def test_same_plan_gives_the_same_weights_and_another_seed_others() -> None:
    plan = TrainingPlan(steps=7)
    assert torch.equal(trained(plan), trained(plan))
    assert not torch.equal(trained(plan), trained(replace(plan, seed=1)))


def test_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    first, before = trained(TrainingPlan(steps=3)), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(trained(TrainingPlan(steps=3)), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_network_is_left_in_evaluation_mode_without_gradients_even_after_an_error() -> None:
    def fail(network: nn.Module, step: int) -> None:
        assert network.training
        raise KeyboardInterrupt

    for hooks in ([], [Hook(after_backward=fail)]):
        made = network()
        try:
            train(made, task_of(), TrainingPlan(steps=2), hooks)
        except KeyboardInterrupt:
            assert hooks
        assert not made.training
        assert all(parameter.grad is None for parameter in made.parameters())


def test_hooks_are_called_in_the_stated_order() -> None:
    calls: list[str] = []

    def hook(name: str) -> Hook:
        return Hook(
            on_start=lambda network, optimizer, steps: calls.append(f"{name} start {steps}"),
            at_rest=lambda network, step, steps: calls.append(f"{name} rest {step}/{steps}"),
            loss_term=lambda network, inputs, outputs: calls.append(f"{name} term"),
            after_backward=lambda network, step: calls.append(f"{name} backward {step}"),
            after_step=lambda network, step, steps, loss: calls.append(f"{name} step {step}/{steps}"),
            after_epoch=lambda network, epoch: calls.append(f"{name} epoch {epoch}"),
        )

    trained(TrainingPlan(steps=3), (hook("a"), hook("b")), task_of(train_data=DATA[:2]))

    def each(*kinds: str) -> list[str]:
        return [f"{name} {kind}" for kind in kinds for name in "ab"]

    def of_step(step: int) -> list[str]:
        return each("term", f"backward {step}", f"step {step}/3")

    ends = each("rest 1/3"), each("epoch 1", "rest 2/3"), each("rest 3/3")
    assert calls == [*each("start 3"), *of_step(1), *ends[0], *of_step(2), *ends[1], *of_step(3), *ends[2]]


def test_hooks_can_report_the_mean_loss_and_the_rate_of_every_epoch() -> None:
    optimizers: list[torch.optim.Optimizer] = []
    losses: list[float] = []
    report: list[tuple[int, float, float]] = []

    def after_epoch(network: nn.Module, epoch: int) -> None:
        report.append((epoch, sum(losses) / len(losses), rate_of(optimizers[0])))
        losses.clear()

    hook = Hook(
        on_start=lambda network, optimizer, steps: optimizers.append(optimizer),
        after_step=lambda network, step, steps, loss: losses.append(loss),
        after_epoch=after_epoch,
    )
    plan = TrainingPlan(epochs=2, rate=0.4, schedule="steps", milestones=(0.5,))
    trained(plan, (hook,))
    assert [(epoch, rate) for epoch, _, rate in report] == [(1, 0.4), (2, pytest.approx(0.04))]
    assert all(0 < mean < 3 for _, mean, _ in report)


def test_hooks_see_gradients_before_the_step_and_weights_after_it() -> None:
    network = nn.Linear(3, 2)
    weights: list[Tensor] = []

    def keep(network: nn.Module, step: int, *_: object) -> None:
        parameter = next(network.parameters())
        assert parameter.grad is not None
        weights.append(parameter.detach().clone())

    train(network, task_of(), TrainingPlan(steps=1), [Hook(after_backward=keep, after_step=keep)])
    assert not torch.equal(weights[0], weights[1])


def test_loss_terms_are_added_to_the_loss() -> None:
    losses: list[float] = []
    report = Hook(after_step=lambda network, step, steps, loss: losses.append(loss))
    trained(TrainingPlan(steps=1), (report,))
    trained(TrainingPlan(steps=1), (Hook(loss_term=lambda *_: torch.tensor(2.5)), report))
    assert losses[1] == pytest.approx(losses[0] + 2.5)


def test_rate_falls_along_half_a_cosine_and_weight_decay_spares_vectors() -> None:
    """The loss is constant, so that w[s+1] = w[s] (1 - rate[s] decay) without momentum, worked out by hand."""
    network = nn.Linear(1, 1)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    task = task_of(train_data=[(torch.ones(1, 1), torch.ones(1))] * 4, loss=lambda outputs, targets: outputs.sum() * 0)
    train(network, task, TrainingPlan(steps=4, rate=0.8, momentum=0.0, weight_decay=0.5))
    expected = math.prod(1 - 0.5 * rate for rate in (0.8, 0.4 + 0.8 / 2**1.5, 0.4, 0.4 - 0.8 / 2**1.5))
    assert network.weight.item() == pytest.approx(expected)
    assert network.bias.item() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_the_training_and_names_the_step(value: float) -> None:
    count = iter(range(100))
    task = task_of(loss=lambda outputs, targets: outputs.sum() * (value if next(count) == 2 else 1))
    with pytest.raises(TaskError, match="at step 3"):
        trained(TrainingPlan(steps=9), task=task)


def test_empty_data_and_frozen_networks_are_refused() -> None:
    with pytest.raises(TaskError, match="no training batches"):
        trained(TrainingPlan(steps=1), task=task_of(train_data=[]))
    with pytest.raises(TaskError, match="no parameter that requires a gradient"):
        train(network().requires_grad_(False), task_of(), TrainingPlan(steps=1))


def test_device_is_that_of_the_parameters() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"


def test_a_plan_trains_the_weights_that_it_has_always_trained() -> None:
    """Numbers of the loop as it was before it knew accumulation, clipping and precision."""
    terms = [
        lambda network, inputs, outputs: outputs.square().mean(),
        lambda network, *_: network[0].weight.abs().sum(),
    ]
    plan = TrainingPlan(epochs=1.5, rate=0.1, warmup=0.2, seed=3)
    weights = trained(plan, [Hook(loss_term=term) for term in terms])
    torch.testing.assert_close(weights[:6], torch.tensor(GOLDEN))


def test_an_accumulated_step_is_that_of_one_large_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    samples, targets = torch.randn(10, 3, generator=generator), torch.arange(10) % 2
    found = []
    for sizes in ([10], [4, 4, 2]):
        losses: list[float] = []
        gradients: list[Tensor] = []

        def after_backward(network: nn.Module, step: int, into: list[Tensor] = gradients) -> None:
            assert isinstance(network, nn.Linear)
            assert network.weight.grad is not None
            into.append(network.weight.grad.clone())

        def after_step(network: nn.Module, step: int, steps: int, loss: float, into: list[float] = losses) -> None:
            into.append(loss)

        penalty = Hook(loss_term=lambda network, *_: 0.1 * network.weight.abs().sum())
        with seeded(1):
            linear = nn.Linear(3, 2)
        task = task_of(train_data=list(zip(samples.split(sizes), targets.split(sizes), strict=True)))
        plan = TrainingPlan(epochs=3, rate=0.1, accumulate=3)
        train(linear, task, plan, [penalty, Hook(after_backward=after_backward, after_step=after_step)])
        found.append([linear.weight.detach(), torch.tensor(losses), torch.stack(gradients)])
        assert len(losses) == 3
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_are_clipped_by_their_norm_after_the_hooks_have_seen_them() -> None:
    """With a rate of 1 and no momentum or decay the weights move by the gradient."""
    norms, made = [], network_of_one()
    before = [parameter.detach().clone() for parameter in made.parameters()]

    def norm(tensors: Iterable[Tensor]) -> float:
        return math.sqrt(sum(float(tensor.square().sum()) for tensor in tensors))

    watch = Hook(
        after_backward=lambda network, step: norms.append(norm(p.grad for p in network.parameters())),
        after_step=lambda network, *_: norms.append(
            norm(p.detach() - old for p, old in zip(network.parameters(), before, strict=True))
        ),
    )
    train(made, task_of(), TrainingPlan(steps=1, rate=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.01), [watch])
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, targets: outputs.square(), r"should be a scalar, .* but has shape \[4, 2\]; return loss.mean"),
        (lambda outputs, targets: {"loss": outputs.mean()}, "should be a scalar tensor, .* but is a dict"),
        (lambda outputs, targets: outputs.mean().item(), "should be a scalar tensor, .* but is a float"),
        (lambda outputs, targets: outputs.detach().mean(), "does not depend on the network's parameters"),
    ],
)
def test_a_loss_that_nothing_can_be_learnt_by_is_refused(loss: Any, message: str) -> None:
    with pytest.raises(TaskError, match=f"the loss of task 'user' {message}"):
        trained(TrainingPlan(steps=1), task=task_of(loss=loss))


def test_a_loss_term_that_is_no_scalar_is_refused_and_a_constant_one_taken() -> None:
    with pytest.raises(TaskError, match="a hook's loss term should be a scalar"):
        trained(TrainingPlan(steps=1), [Hook(loss_term=lambda network, inputs, outputs: outputs)])
    trained(TrainingPlan(steps=1), [Hook(loss_term=lambda *_: torch.tensor(1.0))])


def test_outputs_and_loss_may_come_from_a_function_of_the_whole_batch() -> None:
    def forward(network: nn.Module, inputs: Any, targets: Any) -> tuple[Any, Tensor]:
        outputs = network(2 * inputs)
        return outputs, nn.functional.cross_entropy(outputs, 1 - targets)

    doubled = task_of(train_data=[(2 * inputs, 1 - targets) for inputs, targets in DATA])
    made, plan = network(), TrainingPlan(steps=3)
    train(made, task_of(), plan, forward=forward)
    assert torch.equal(torch.cat([p.detach().flatten() for p in made.parameters()]), trained(plan, task=doubled))
