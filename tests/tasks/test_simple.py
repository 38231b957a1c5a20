from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError, UnknownName, UserError
from autoprune.tasks.base import Split, Task
from autoprune.tasks.datasets.digits import DigitsTask
from autoprune.tasks.models.named import named_model
from autoprune.tasks.simple import SimpleTask, build_task, model_name, with_model

X = torch.arange(20.0).view(10, 2)
Y = torch.arange(10) % 2
PAIRS = TensorDataset(X, Y)


def network() -> nn.Module:
    return nn.Linear(2, 2)


SIMPLE = SimpleTask(network, PAIRS, PAIRS)
BROKEN = 3


def simple() -> SimpleTask:
    return SIMPLE


def failing() -> SimpleTask:
    raise RuntimeError("no flowers")


class Noisy(Dataset[tuple[Tensor, int]]):
    """Adds noise from torch's global generator, as random transforms do."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((2,), float(index)) + torch.rand(2), index % 2


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


def _inputs(task: Task, split: Split, seed: int = 0, size: int = 4) -> Tensor:
    return torch.cat([inputs for inputs, _ in task.batches(split, size, seed)])


def test_dataset_is_batched_as_asked_in_order_or_shuffled_by_the_seed() -> None:
    assert [len(labels) for _, labels in SIMPLE.batches("validation", 4)] == [4, 4, 2]
    assert torch.equal(_inputs(SIMPLE, "validation"), X)
    train = _inputs(SIMPLE, "train", seed=1)
    assert torch.equal(train, _inputs(SIMPLE, "train", seed=1))
    assert not torch.equal(train, _inputs(SIMPLE, "train", seed=2))
    assert not torch.equal(train, X)
    assert torch.equal(train.sort(dim=0).values, X)


@pytest.mark.parametrize(
    "data",
    [DataLoader(PAIRS, batch_size=5), [(X[:5], Y[:5]), [X[5:], Y[5:]]], Stream(), DataLoader(Stream(), batch_size=3)],
    ids=["loader", "list", "stream", "loader of a stream"],
)
def test_other_data_come_as_they_are_each_time_from_the_start(data: Any) -> None:
    task = replace(SIMPLE, train_data=data)
    batches = task.batches("train", 4)
    for _ in range(2):
        assert torch.equal(torch.cat([inputs for inputs, _ in batches]), X)


@pytest.mark.parametrize("data", [Noisy(), DataLoader(Noisy(), batch_size=2, shuffle=True)], ids=["dataset", "loader"])
def test_random_transforms_follow_the_seed_and_leave_global_randomness_alone(data: Any) -> None:
    task = replace(SIMPLE, train_data=data)
    first, before = _inputs(task, "train", seed=1), torch.get_rng_state()
    assert len(torch.unique(first % 1)) == first.numel()  # no two batches have the same noise
    torch.rand(3)
    assert torch.equal(_inputs(task, "train", seed=1), first)
    assert not torch.equal(_inputs(task, "train", seed=2), first)
    torch.set_rng_state(before)
    interleaved, drawn = [], []
    for inputs, _ in task.batches("train", 4, 1):
        interleaved.append(inputs)
        drawn.append(torch.rand(1))
    assert torch.equal(torch.cat(interleaved), first)
    torch.set_rng_state(before)
    assert torch.equal(torch.cat(drawn), torch.rand(len(drawn)))


@pytest.mark.parametrize("split", ["test", "plain"])
def test_missing_split_names_the_field(split: Split) -> None:
    with pytest.raises(TaskError, match=rf"'user' has no {split}_data.*SimpleTask\(\.\.\., {split}_data=\.\.\.\)"):
        SIMPLE.batches(split, 4)


class Numbered:
    """As a Dataset, which it is not."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index], Y[index]


def test_what_has_samples_by_number_need_be_no_dataset_of_torch() -> None:
    inputs, targets = next(iter(replace(SIMPLE, validation_data=Numbered()).batches("validation", len(X))))
    assert torch.equal(inputs, X)
    assert torch.equal(targets, Y)


def test_data_that_can_be_read_only_once_or_not_at_all_are_refused() -> None:
    with pytest.raises(TaskError, match="validation_data is a generator, which can be gone through only once"):
        replace(SIMPLE, validation_data=(batch for batch in [(X, Y)]))
    with pytest.raises(TaskError, match="train_data should be a Dataset or an iterable of batches but is a int"):
        replace(SIMPLE, train_data=3)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="`network` should build a network"):
        replace(SIMPLE, network=nn.Linear(1, 1))


class _Sum(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


def test_inputs_may_be_anything_and_those_of_a_dataset_stay_positional() -> None:
    pairs = [((X[i], 2 * X[i]), Y[i]) for i in range(4)]
    for data in (pairs, [((X[:4], 2 * X[:4]), Y[:4])]):
        task = replace(SIMPLE, network=_Sum, validation_data=_Listed(data) if len(data) == 4 else data)
        ((inputs, targets),) = task.batches("validation", 4)
        assert isinstance(inputs, tuple)
        assert torch.equal(inputs[1], 2 * X[:4])
        assert torch.equal(targets, Y[:4])


class _Listed(Dataset[Any]):
    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def test_inputs_and_targets_may_be_functions_of_the_batch() -> None:
    records = [{"picture": X, "truth": Y, "name": ["a"] * 10}]
    task = replace(
        SIMPLE, validation_data=records, inputs=lambda batch: batch["picture"], targets=lambda batch: batch["truth"]
    )
    ((inputs, targets),) = task.batches("validation", 4)
    assert inputs is X
    assert targets is Y


def test_samples_and_their_axis_may_be_said() -> None:
    words, flat = torch.zeros(7, 3, dtype=torch.long), torch.zeros(21)
    ((inputs, _),) = replace(SIMPLE, validation_data=[(words, flat)], axis=1).batches("validation", 4)
    assert (len(inputs), inputs.axis) == (3, 1)
    graph = {"nodes": torch.rand(9, 4), "edges": torch.rand(2, 5)}
    task = replace(SIMPLE, validation_data=[(graph, torch.rand(2))], samples=lambda batch: len(batch[1]))
    ((inputs, _),) = task.batches("validation", 4)
    assert len(inputs) == 2


def test_simple_task_is_a_task_that_trains_and_loads(tmp_path: Path) -> None:
    task: Task = SIMPLE
    trained, loaded = task.network(), task.network()
    task.train(trained, TrainingPlan(steps=2))
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    task.load(loaded, tmp_path / "w.pt")
    assert torch.equal(loaded(X), trained(X))
    task.load(loaded, None)
    assert torch.equal(loaded(X), trained(X))
    assert [each.name for each in task.metrics] == ["accuracy"]


def test_task_is_built_from_a_registry_name_an_object_or_a_function() -> None:
    assert isinstance(build_task("digits"), DigitsTask)
    assert build_task(f"{__name__}:SIMPLE") is SIMPLE
    assert build_task(f"{__name__}:simple") is SIMPLE


def test_class_without_arguments_is_built() -> None:
    assert isinstance(build_task("autoprune.tasks.datasets.digits:DigitsTask"), DigitsTask)


def test_model_replaces_the_network_and_names_it() -> None:
    text = f"{__name__}:network"
    for name in (f"{__name__}:SIMPLE", "digits"):
        task = build_task(name, model=text)
        built = task.network()
        assert isinstance(built, nn.Linear)
        assert model_name(task, built) == text
    registered = build_task(f"{__name__}:SIMPLE", model="resnet20")
    assert model_name(registered, registered.network()) == "resnet20"
    assert registered.name == "user"


def test_task_with_another_network_leaves_the_rest_to_the_task() -> None:
    task = with_model(SIMPLE, named_model(network))
    built = task.network()
    task.load(built, None)
    task.train(built, TrainingPlan(steps=1))
    assert torch.equal(_inputs(task, "train", seed=3), _inputs(SIMPLE, "train", seed=3))
    assert [each.name for each in task.metrics] == ["accuracy"]
    outputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(task.loss(outputs, Y[:4]), nn.functional.cross_entropy(outputs, Y[:4]))


def test_model_name_without_a_task_that_says_it_is_the_class_of_the_network() -> None:
    assert model_name(SIMPLE, nn.Linear(1, 1)) == "torch.nn.modules.linear:Linear"
    assert model_name(DigitsTask(), nn.Linear(1, 1)) == "digits_resnet"


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown task 'digit'; did you mean 'digits'.*package\.module:attribute"):
        build_task("digit")
    with pytest.raises(UnknownName, match=r"unknown model 'digits_resnt'; did you mean 'digits_resnet'"):
        build_task("digits", model="digits_resnt")


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("BROKEN", None, "the int lacks name, network"),
        ("network", None, "the Linear lacks name, network"),
        ("failing", None, "RuntimeError: no flowers .*test_simple.py, line"),
        ("SIMPLE", "BROKEN", "is a int; expected a function or class"),
    ],
)
def test_attributes_that_are_no_task_or_model_are_refused(name: str, model: str | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_task(f"{__name__}:{name}", model and f"{__name__}:{model}")


def test_function_that_returns_no_network_is_refused_when_the_network_is_built() -> None:
    task = build_task(f"{__name__}:SIMPLE", f"{__name__}:simple")
    with pytest.raises(TaskError, match=r"should return a torch\.nn\.Module but returned a SimpleTask"):
        task.network()


def test_data_folder_for_an_own_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="brings its own data"):
        build_task(f"{__name__}:SIMPLE", data=tmp_path)
