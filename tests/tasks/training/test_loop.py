from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.base import Batch, Hook, Split
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training.loop import arranged, count_steps, device_of, seeded, train
from autoprune.tasks.training.optimizers import rate_of

DATA = [(torch.randn(4, 3, generator=torch.Generator().manual_seed(i)), torch.tensor([0, 1, 0, 1])) for i in range(5)]


def _network() -> nn.Module:
    with seeded(7):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))


def _task(**changes: object) -> SimpleTask:
    return replace(SimpleTask(_network, DATA, DATA), **changes)  # type: ignore[arg-type]


def _trained(plan: TrainingPlan, hooks: tuple[Hook, ...] = (), task: SimpleTask | None = None) -> Tensor:
    network = _network()
    train(network, task or _task(), plan, hooks)
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def test_same_plan_gives_the_same_weights_and_another_seed_others() -> None:
    plan = TrainingPlan(steps=7)
    assert torch.equal(_trained(plan), _trained(plan))
    assert not torch.equal(_trained(plan), _trained(replace(plan, seed=1)))


def test_global_random_state_is_neither_used_nor_changed() -> None:
    torch.manual_seed(1)
    first, before = _trained(TrainingPlan(steps=3)), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(_trained(TrainingPlan(steps=3)), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_network_is_left_in_evaluation_mode_without_gradients_even_after_an_error() -> None:
    def fail(network: nn.Module, step: int) -> None:
        assert network.training
        raise KeyboardInterrupt

    for hooks in ([], [Hook(after_backward=fail)]):
        network = _network()
        try:
            train(network, _task(), TrainingPlan(steps=2), hooks)
        except KeyboardInterrupt:
            assert hooks
        assert not network.training
        assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        (TrainingPlan(steps=7), 7),
        (TrainingPlan(), 5),
        (TrainingPlan(epochs=2), 10),
        (TrainingPlan(epochs=0.5), 3),
        (TrainingPlan(epochs=0.2), 1),
    ],
)
def test_steps_are_those_of_the_plan(plan: TrainingPlan, steps: int) -> None:
    seen: list[tuple[int, int]] = []
    _trained(plan, (Hook(after_step=lambda network, step, steps, loss: seen.append((step, steps))),))
    assert seen == [(step, steps) for step in range(1, steps + 1)]
    assert count_steps(_task(), plan) == steps


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

    _trained(TrainingPlan(steps=3), (hook("a"), hook("b")), _task(train_data=DATA[:2]))

    def each(*kinds: str) -> list[str]:
        return [f"{name} {kind}" for kind in kinds for name in "ab"]

    def of_step(step: int) -> list[str]:
        return each("term", f"backward {step}", f"step {step}/3")

    ends = each("rest 1/3"), each("epoch 1", "rest 2/3"), each("rest 3/3")
    assert calls == [*each("start 3"), *of_step(1), *ends[0], *of_step(2), *ends[1], *of_step(3), *ends[2]]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("begin", range(13))
def test_training_that_begins_later_has_the_steps_epochs_rates_and_batches_of_the_unbroken_run(
    begin: int, streaming: bool
) -> None:
    shuffled = TensorDataset(torch.arange(18.0).view(6, 3), torch.zeros(6, dtype=torch.int64))

    def seen(begin: int) -> list[object]:
        events: list[object] = []
        kept: list[torch.optim.Optimizer] = []

        def watch(network: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
            events.append(("batch", inputs.tolist()))

        hook = Hook(
            on_start=lambda network, optimizer, steps: kept.append(optimizer),
            loss_term=watch,
            after_step=lambda network, step, steps, loss: events.append((step, steps, rate_of(kept[0]))),
            after_epoch=lambda network, epoch: events.append(("epoch", epoch)),
        )
        task = _task(train_data=shuffled)
        plan = TrainingPlan(steps=12, batch_size=1, warmup=0.25, begin=begin)
        train(_network_of_one(), task if streaming else Counted(task), plan, [hook])
        return events

    whole = seen(0)
    done = next((i for i, event in enumerate(whole) if event[0] == begin), -1) + 1  # type: ignore[index]
    done += done < len(whole) and whole[done][0] == "epoch"  # type: ignore[index]
    assert seen(begin) == whole[done:]
    assert (len(seen(begin)) == 0) == (begin == 12)


def test_training_that_begins_later_makes_no_batch_of_whole_passes_before() -> None:
    made: list[int] = []

    class Watched(Counted):
        def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
            batches = list(super().batches(split, batch_size, seed))

            class Lazy:
                def __len__(self) -> int:
                    return len(batches)

                def __iter__(self) -> Iterator[Batch]:
                    made.append(seed)
                    return iter(batches)

            return Lazy()

    train(_network(), Watched(_task()), TrainingPlan(steps=17, begin=16), [])
    assert len(made) == 1


def test_training_cannot_begin_after_its_end() -> None:
    with pytest.raises(TaskError, match="begin after step 11, but the plan has only 10 steps"):
        _trained(TrainingPlan(epochs=2, begin=11))


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
    _trained(plan, (hook,))
    assert [(epoch, rate) for epoch, _, rate in report] == [(1, 0.4), (2, pytest.approx(0.04))]
    assert all(0 < mean < 3 for _, mean, _ in report)


def test_hooks_see_gradients_before_the_step_and_weights_after_it() -> None:
    network = nn.Linear(3, 2)
    weights: list[Tensor] = []

    def keep(network: nn.Module, step: int, *_: object) -> None:
        parameter = next(network.parameters())
        assert parameter.grad is not None
        weights.append(parameter.detach().clone())

    train(network, _task(), TrainingPlan(steps=1), [Hook(after_backward=keep, after_step=keep)])
    assert not torch.equal(weights[0], weights[1])


def test_loss_terms_are_added_to_the_loss() -> None:
    losses: list[float] = []
    report = Hook(after_step=lambda network, step, steps, loss: losses.append(loss))
    _trained(TrainingPlan(steps=1), (report,))
    _trained(TrainingPlan(steps=1), (Hook(loss_term=lambda *_: torch.tensor(2.5)), report))
    assert losses[1] == pytest.approx(losses[0] + 2.5)


def test_rate_falls_along_half_a_cosine_and_weight_decay_spares_vectors() -> None:
    """The loss is constant, so that w[s+1] = w[s] (1 - rate[s] decay) without momentum, worked out by hand."""
    network = nn.Linear(1, 1)
    nn.init.ones_(network.weight)
    nn.init.ones_(network.bias)
    task = _task(train_data=[(torch.ones(1, 1), torch.ones(1))] * 4, loss=lambda outputs, targets: outputs.sum() * 0)
    train(network, task, TrainingPlan(steps=4, rate=0.8, momentum=0.0, weight_decay=0.5))
    expected = math.prod(1 - 0.5 * rate for rate in (0.8, 0.4 + 0.8 / 2**1.5, 0.4, 0.4 - 0.8 / 2**1.5))
    assert network.weight.item() == pytest.approx(expected)
    assert network.bias.item() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_stops_the_training_and_names_the_step(value: float) -> None:
    count = iter(range(100))
    task = _task(loss=lambda outputs, targets: outputs.sum() * (value if next(count) == 2 else 1))
    with pytest.raises(TaskError, match="at step 3"):
        _trained(TrainingPlan(steps=9), task=task)


class Streaming:
    """A task whose batches are a generator without a length."""

    def __init__(self, task: SimpleTask) -> None:
        self.seeds: list[int] = []
        self.name, self.network, self.load, self.loss, self.metric, self.train = (
            task.name, task.network, task.load, task.loss, task.metric, task.train,
        )  # fmt: skip

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        self.seeds.append(seed)
        yield from DATA


class Counted(Streaming):
    """A task whose batches have a length."""

    def __init__(self, task: SimpleTask) -> None:
        super().__init__(task)
        self._task = task

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        return list(self._task.batches(split, batch_size, seed))


def _network_of_one() -> nn.Module:
    """A network that takes batches of a single sample in training."""
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.3))


def test_batches_without_a_length_are_counted_and_every_epoch_has_an_order_of_its_own() -> None:
    task, epochs = Streaming(_task()), []
    train(_network(), task, TrainingPlan(epochs=2), [Hook(after_epoch=lambda network, epoch: epochs.append(epoch))])
    assert epochs == [1, 2]
    assert len(task.seeds) == len(set(task.seeds)) == 3


def test_empty_data_and_frozen_networks_are_refused() -> None:
    with pytest.raises(TaskError, match="no training batches"):
        _trained(TrainingPlan(steps=1), task=_task(train_data=[]))
    with pytest.raises(TaskError, match="no parameter that requires a gradient"):
        train(_network().requires_grad_(False), _task(), TrainingPlan(steps=1))


def test_device_is_that_of_the_parameters() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"


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
