from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.base import Batch, Hook, Split
from autoprune.tasks.training.loop import train
from autoprune.tasks.training.optimizers import rate_of
from autoprune.tasks.training.passes import count_steps
from tests.tasks.training.tasks import Counted, Streaming, network, network_of_one, task_of, trained


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
        task = task_of(train_data=shuffled)
        plan = TrainingPlan(steps=12, batch_size=1, warmup=0.25, begin=begin)
        train(network_of_one(), task if streaming else Counted(task), plan, [hook])
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

    train(network_of_one(), Watched(task_of()), TrainingPlan(steps=17, begin=16), [])
    assert len(made) == 1


def test_training_cannot_begin_after_its_end() -> None:
    with pytest.raises(TaskError, match="begin after step 11, but the plan has only 10 steps"):
        trained(TrainingPlan(epochs=2, begin=11))


def test_batches_without_a_length_are_counted_and_every_epoch_has_an_order_of_its_own() -> None:
    task, epochs = Streaming(task_of()), []
    train(network(), task, TrainingPlan(epochs=2), [Hook(after_epoch=lambda network, epoch: epochs.append(epoch))])
    assert epochs == [1, 2]
    assert len(task.seeds) == len(set(task.seeds)) == 3


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
    trained(plan, (Hook(after_step=lambda network, step, steps, loss: seen.append((step, steps))),))
    assert seen == [(step, steps) for step in range(1, steps + 1)]
    assert count_steps(task_of(), plan, network()) == steps


def _numbered(count: int) -> TensorDataset:
    """Samples whose first entry is their number."""
    return TensorDataset(torch.arange(count).float()[:, None].expand(-1, 3).contiguous(), torch.arange(count) % 2)


def _seen(task: Any, plan: TrainingPlan, trained: nn.Module) -> list[list[int]]:
    """Trains, and returns the numbers of the samples of every batch, and an empty list at every end of a pass."""
    seen: list[list[int]] = []

    def watch(network: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        seen.append([int(number) for number in inputs[:, 0]])

    train(trained, task, plan, [Hook(loss_term=watch, after_epoch=lambda *_: seen.append([]))])
    return seen


@pytest.mark.parametrize("kind", [lambda task: task, Streaming, Counted])
def test_a_rest_of_one_sample_is_joined_to_the_batch_before_it_where_batch_statistics_are_taken(kind: Any) -> None:
    task = kind(task_of(train_data=_numbered(9)))
    plan = TrainingPlan(epochs=2, batch_size=4)
    assert count_steps(task, plan, network()) == 4
    first, second, end, *later = _seen(task, plan, network())
    assert [len(first), len(second), end] == [4, 5, []]
    assert sorted(first + second) == list(range(9))
    assert [len(batch) for batch in later] == [4, 5, 0]
    assert [len(batch) for batch in _seen(task, plan, network_of_one())] == [4, 4, 1, 0] * 2


@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4, 2, 0]), (4, [4, 0]), (1, [1, 0])])
def test_other_batches_stay_as_they_are(count: int, sizes: list[int]) -> None:
    one = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(3, 2))
    task = task_of(train_data=_numbered(count))
    assert [len(batch) for batch in _seen(task, TrainingPlan(epochs=1, batch_size=4), one)] == sizes


def test_batches_that_are_all_of_one_sample_stay_so() -> None:
    one = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(3, 2))
    task = Counted(task_of(train_data=DataLoader(_numbered(3), 1)))
    assert _seen(task, TrainingPlan(epochs=1), one) == [[0], [1], [2], []]


def test_one_sample_in_the_middle_of_a_pass_is_a_batch_of_its_own() -> None:
    one = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(3, 2))
    samples, targets = _numbered(7).tensors
    parts = [samples.split([2, 1, 2, 1, 1]), targets.split([2, 1, 2, 1, 1])]
    task = task_of(train_data=list(zip(*parts, strict=True)))
    assert _seen(task, TrainingPlan(epochs=1), one) == [[0, 1], [2], [3, 4], [5], [6], []]


def test_a_loader_of_which_it_is_known_is_not_gone_through_to_count() -> None:
    class Lazy(DataLoader[Batch]):
        def __iter__(self) -> Any:
            raise AssertionError("gone through")

    class Loading(Streaming):
        def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
            return Lazy(_numbered(9), batch_size, drop_last=split == "plain")

    assert count_steps(Loading(task_of()), TrainingPlan(epochs=3, batch_size=4), network()) == 6
    assert count_steps(Loading(task_of()), TrainingPlan(epochs=3, batch_size=4), network_of_one()) == 9
    assert count_steps(Loading(task_of()), TrainingPlan(epochs=3, batch_size=4, accumulate=2), network()) == 3


def test_several_inputs_and_targets_are_joined_each_along_the_axis_of_its_samples() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x: Tensor, scale: Tensor, named: dict[str, Tensor]) -> Tensor:
            shapes.append((x.shape, scale.shape, named["time_last"].shape))
            return self.head(self.norm(x * scale + named["time_last"].mean(1)))  # type: ignore[no-any-return]

    def batch(count: int) -> Any:
        return (
            (torch.randn(count, 3), torch.ones(1), {"time_last": torch.randn(count, 5, 3)}),
            [{"boxes": torch.zeros(2)}] * count,
        )

    shapes: list[Any] = []
    lengths: list[int] = []

    def loss(outputs: Tensor, targets: list[Any]) -> Tensor:
        lengths.append(len(targets))
        return outputs.square().mean()

    task = Counted(task_of(loss=loss))
    task.batches = lambda *_: [batch(4), batch(4), batch(1)]  # type: ignore[method-assign]
    train(Pair(), task, TrainingPlan(epochs=1))
    assert shapes == [((4, 3), (1,), (4, 5, 3)), ((5, 3), (1,), (5, 5, 3))]
    assert lengths == [4, 5]


def test_a_rest_that_cannot_be_joined_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class AnyLength(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            sizes.append(len(x))
            return self.head(self.norm(x.mean(1)))  # type: ignore[no-any-return]

    sizes: list[int] = []
    batches = [(torch.randn(n, length, 3), torch.zeros(n, dtype=torch.int64)) for n, length in ((4, 5), (1, 7))]
    with caplog.at_level(logging.WARNING):
        train(AnyLength(), task_of(train_data=batches), TrainingPlan(epochs=2))
    assert sizes == [4, 4]
    assert "left out: the samples of a batch of shape [4, 5, 3] and a batch of shape [1, 7, 3]" in caplog.text


def test_a_step_takes_as_many_batches_as_are_accumulated_and_the_last_of_a_pass_the_rest() -> None:
    task, steps = task_of(train_data=_numbered(14)), []
    plan = TrainingPlan(epochs=2, batch_size=4, accumulate=3)
    assert count_steps(task, plan, network()) == 4

    def after_step(network: nn.Module, step: int, last: int, loss: float) -> None:
        steps.append((step, last, [len(batch) for batch in seen]))
        seen.clear()

    seen: list[Tensor] = []
    watch = Hook(loss_term=lambda network, inputs, outputs: seen.append(inputs), after_step=after_step)
    train(network(), task, plan, [watch])
    assert steps == [(1, 4, [4, 4, 4]), (2, 4, [2]), (3, 4, [4, 4, 4]), (4, 4, [2])]


@pytest.mark.parametrize("begin", range(5))
def test_training_that_begins_later_sees_the_same_joined_and_accumulated_batches(begin: int) -> None:
    task = task_of(train_data=_numbered(9))
    plan = TrainingPlan(epochs=2, batch_size=2, accumulate=2)
    whole = _seen(Counted(task), plan, network())
    assert [len(batch) for batch in whole] == [2, 2, 2, 3, 0] * 2
    done = {0: 0, 1: 2, 2: 5, 3: 7, 4: 10}[begin]
    for kind in (Counted, Streaming):
        later = TrainingPlan(epochs=2, batch_size=2, accumulate=2, begin=begin)
        assert _seen(kind(task), later, network()) == whole[done:]
