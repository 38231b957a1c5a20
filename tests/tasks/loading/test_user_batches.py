from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from autoprune.errors import DataError, TaskError
from autoprune.tasks.loading.splitting import Splitter
from autoprune.tasks.loading.user_batches import dataset_classes, user_batches

X, Y = torch.arange(24.0), torch.arange(24) // 6
PAIRS = TensorDataset(X, Y)
MODULES_OWN = np.random.default_rng(3)


class Network(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def batches(data: Any, seed: int = 1, *, shuffle: bool = True, size: int = 4) -> Any:
    return user_batches(data, "train_data", size, seed, shuffle, Splitter(Network))


def values(of: Any) -> Tensor:
    return torch.cat([inputs for inputs, _ in of])


class Noisy(Dataset[tuple[Tensor, int]]):
    """Draws noise from a source of random numbers."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([index, float(self.draw())], dtype=torch.float64), index % 2


def draw_by_module() -> float:
    return MODULES_OWN.random()


class Transform:
    def __init__(self) -> None:
        self.legacy, self.python = np.random.RandomState(0), random.Random(0)
        self.own = torch.Generator()

    def __call__(self) -> float:
        drawn = self.legacy.uniform() + self.python.random() + torch.rand(1, generator=self.own).item()
        return float(drawn)


SOURCES: dict[str, Callable[[], Callable[[], float]]] = {
    "torch": lambda: _torch,
    "python": lambda: random.random,
    "numpy": lambda: np.random.random,
    "held": Transform,
    "bound": lambda: np.random.default_rng(5).random,
    "closure": lambda: (lambda own: lambda: own.random())(np.random.default_rng(7)),
    "module": lambda: draw_by_module,
}


def _torch() -> float:
    return float(torch.rand(1))


def global_states() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002 - what users draw from


@pytest.mark.parametrize("kind", ["dataset", "loader", "own generator", "list of loader"])
@pytest.mark.parametrize("source", SOURCES)
def test_the_same_seed_gives_the_same_noise_whatever_it_is_drawn_from(source: str, kind: str) -> None:
    noisy = Noisy(SOURCES[source]())
    data: Any = {
        "dataset": noisy,
        "loader": DataLoader(noisy, 4, shuffle=True),
        "own generator": DataLoader(noisy, 4, shuffle=True, generator=torch.Generator()),
        "list of loader": _Wrapping(DataLoader(noisy, 4, shuffle=True)),
    }[kind]
    before = global_states()
    first = values(batches(data))
    assert len(first[:, 1].unique()) == 12
    assert global_states() == before
    noisy.draw()
    assert torch.equal(values(batches(data)), first)
    assert not torch.equal(values(batches(data, seed=2))[:, 1], first[:, 1])
    drawn = values(batches(data).draw(8))
    noisy.draw()
    assert torch.equal(values(batches(data).draw(8)), drawn)


class _Wrapping:
    """A loader of another library, that runs torch's inside."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        yield from self.loader


def test_generators_that_data_hold_go_on_for_their_owner_as_if_nothing_had_been_drawn() -> None:
    own, transform = torch.Generator().manual_seed(4), Transform()
    loader = DataLoader(Noisy(transform), 4, shuffle=True, generator=own)
    expected = torch.rand(3, generator=torch.Generator().manual_seed(4))
    for number, _ in enumerate(batches(loader)):
        if number == 1:
            break  # in the middle of a pass
    assert torch.equal(torch.rand(3, generator=own), expected)
    assert transform.legacy.uniform() == np.random.RandomState(0).uniform()


def _seed_from_numpy(worker: int) -> None:
    random.seed(int(np.random.get_state()[1][0]) + worker)  # noqa: NPY002 - as users do


@pytest.mark.parametrize("persistent", [False, True])
def test_two_loader_processes_give_the_same_batches_for_the_same_seed(persistent: bool) -> None:
    def draw() -> float:
        numpys = float(np.random.random())  # noqa: NPY002 - as users do
        return random.random() + numpys + float(torch.rand(1)) + transform()

    transform = Transform()
    loader = DataLoader(
        Noisy(draw),
        4,
        shuffle=True,
        num_workers=2,
        generator=torch.Generator(),
        persistent_workers=persistent,
        worker_init_fn=_seed_from_numpy,
    )
    list(loader)  # workers that persist have drawn before
    first = values(batches(loader))
    assert torch.equal(values(batches(loader)), first)
    assert not torch.equal(values(batches(loader, seed=2)), first)
    assert torch.equal(values(batches(loader).draw(6)), values(batches(loader).draw(12))[:6])


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(PAIRS[i] for i in range(len(PAIRS)))


class Pairs(BatchSampler):
    """Batches of neighbours, as those are that put samples of one length together."""

    def __init__(self) -> None: ...

    def __iter__(self) -> Iterator[list[int]]:
        return iter([2 * i, 2 * i + 1] for i in range(12))

    def __len__(self) -> int:
        return 12


LOADERS: dict[str, Any] = {
    "dataset": PAIRS,
    "subset": Subset(PAIRS, range(2, 20)),
    "loader": DataLoader(PAIRS, 5),
    "loader that drops": DataLoader(PAIRS, 5, drop_last=True),
    "own order": DataLoader(PAIRS, 5, sampler=RandomSampler(PAIRS)),
    "weighted": DataLoader(PAIRS, 5, sampler=WeightedRandomSampler([1.0] * 24, 24, replacement=False)),
    "own batches": DataLoader(PAIRS, batch_sampler=Pairs()),
    "batches of torch's": DataLoader(PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS), 5, drop_last=False)),
    "ready": DataLoader([(X[:12], Y[:12]), (X[12:], Y[12:])], batch_size=None),  # type: ignore[arg-type]
    "list": [(X[:7], Y[:7]), [X[7:], Y[7:]]],
    "stream": Stream(),
    "loader of a stream": DataLoader(Stream(), 5),
    "wrapped": _Wrapping(DataLoader(PAIRS, 5)),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_draw_is_of_the_whole_split_and_a_part_of_a_larger_one(kind: str) -> None:
    found = batches(LOADERS[kind], shuffle=False)
    few, more, every = (values(found.draw(n)).tolist() for n in (6, 12, 1000))
    whole = values(found).tolist()
    assert (len(few), len(more)) == (6, 12)
    assert len(set(more)) == 12
    assert set(few) <= set(more) <= set(every)
    assert set(whole) <= set(every) <= set(range(24))
    assert max(few) >= 12 > min(few)  # not the first ones
    assert values(found.draw(6)).tolist() == few


def test_the_samples_of_a_batch_sampler_are_those_of_its_own_sampler() -> None:
    grouping = BatchSampler(SubsetRandomSampler(range(9)), 4, drop_last=False)
    found = batches(DataLoader(PAIRS, batch_sampler=grouping), shuffle=False)
    assert sorted(values(found).tolist()) == sorted(values(found.draw(1000)).tolist()) == [*range(9)]
    assert found.ends_with_one
    assert [len(inputs) for inputs, _ in found.draw(6)] == [4, 2]


@pytest.mark.parametrize("kind", LOADERS)
def test_batches_have_a_length_only_where_it_is_known(kind: str) -> None:
    found = batches(LOADERS[kind])
    assert hasattr(type(found), "__len__") == (kind not in ("stream", "loader of a stream", "wrapped"))
    if hasattr(type(found), "__len__"):
        assert len(found) == len(list(found))


def test_classes_are_known_without_reading_a_sample() -> None:
    class Folder(Dataset[Any]):
        targets = (0, 0, 1, 1)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("read")

    parts = ConcatDataset([Subset(Folder(), [3, 0]), Folder()])
    found = dataset_classes(parts)
    assert found is not None
    assert found.tolist() == [1, 0, 0, 0, 1, 1]
    assert dataset_classes(TensorDataset(X, X)) is None
    assert dataset_classes(TensorDataset(X)) is None


class Broken(Dataset[Any]):
    def __init__(self, fault: Callable[[], Any]) -> None:
        self.fault = fault

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return self.fault() if index == 9 else (torch.zeros(3), 1)


def _raise() -> None:
    raise OSError("truncated\nimage")


@pytest.mark.parametrize(
    ("fault", "said", "workers"),
    [
        (_raise, r"item 9 cannot be read \(OSError: truncated image\)", 2),
        (lambda: (torch.zeros(4), 1), r"item 9 is \(float32 \[4\], int\), but item 8 is \(float32 \[3\], int\)", 2),
        (lambda: (torch.zeros(3),), r"item 9 is \(float32 \[3\]\), but item 8 is", 0),
        (lambda: None, r"item 9 is NoneType, but item 8 is", 0),
    ],
    ids=["raises", "shape", "kind", "nothing"],
)
def test_a_sample_that_is_at_fault_is_named(fault: Any, said: str, workers: int) -> None:
    for data in (Broken(fault), DataLoader(Broken(fault), 4, num_workers=workers)):
        with pytest.raises(DataError, match=f"^train_data: {said}") as refused:
            list(batches(data, shuffle=False))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("last", "said"),
    [((X,), "batch 1 is"), ({"x": X}, "batch 1 is"), ((X[:, None], Y), r"float32 \[24, 1\].*but batch 0 is")],
)
def test_a_batch_of_another_form_is_named(last: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"^train_data: .*{said}"):
        list(batches([(X, Y), last]))


def test_batches_without_samples_are_passed_over_and_this_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    found = list(batches([(X[:0], Y[:0]), (X, Y), (X[:0], Y[:0])]))
    assert [len(inputs) for inputs, _ in found] == [24]
    [record] = caplog.records
    assert record.message == "train_data has batches without samples, which are passed over"


def test_batches_whose_samples_cannot_be_counted_are_named() -> None:
    with pytest.raises(TaskError, match=r"^train_data: batch 1: the inputs hold 24 samples, .* but the targets 9; "):
        list(batches([(X, Y), (X, Y[:9])]))


class Numbered:
    """As a Dataset, which it is not."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index], Y[index]


@pytest.mark.parametrize("data", [X, X.numpy(), Numbered()], ids=["tensor", "array", "of its own class"])
def test_what_has_samples_by_number_is_no_list_of_batches(data: Any) -> None:
    found = batches(data)
    assert len(found) == 6
    assert sorted(values(found).tolist()) == X.tolist()
    assert len(values(found.draw(10))) == 10


def test_a_dataset_without_a_length_is_named() -> None:
    class Endless(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return X, 0

    with pytest.raises(DataError, match="train_data: a Dataset that is read by index needs a length"):
        list(batches(Endless()))


def test_batches_that_raise_are_named_by_their_number() -> None:
    def stream() -> Iterator[Any]:
        yield X, Y
        raise RuntimeError("connection lost")

    class Once:
        def __iter__(self) -> Iterator[Any]:
            return stream()

    with pytest.raises(DataError, match=r"train_data: batch 1 cannot be read \(RuntimeError: connection lost\)"):
        list(batches(Once()))


def test_training_batches_of_one_class_first_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    loader = DataLoader(TensorDataset(torch.zeros(32, 1), torch.arange(32) // 16), 16)
    splitter = Splitter(Network)
    for seed in range(2):
        list(user_batches(loader, "train_data", 16, seed, True, splitter))
    [record] = caplog.records
    assert "train_data begins with a batch of one class only (0)" in record.message
    assert "shuffle=True" in record.message
