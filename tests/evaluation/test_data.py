from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from autoprune import SimpleTask
from autoprune.evaluation.data import Batches, ScoringSamples, takes_channels_last
from autoprune.evaluation.prunable_model import analyze
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.pruner import APOZ_FILTER, L1_FILTER, RANDOM_FILTER
from autoprune.tasks.base import Batch, Split
from autoprune.tasks.datasets.digits import DigitsTask
from tests.user_tasks import task as tiny_task

CPU = torch.device("cpu")
IMAGES = torch.arange(20.0).view(20, 1, 1, 1)
DATA = torch.utils.data.TensorDataset(IMAGES, torch.zeros(20, dtype=torch.long))


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten())


def _seen(samples: Iterable[Batch]) -> list[float]:
    return [value for inputs, _ in samples for value in inputs.flatten().tolist()]


def test_plain_training_images_are_drawn_from_the_whole_split() -> None:
    task = SimpleTask(_network, [], [], plain_data=DATA)
    samples = ScoringSamples(task, CPU, samples=10, batch_size=4)
    assert _seen(samples) == _seen(samples)
    assert max(_seen(samples)) >= 10
    assert samples.describe() == {"samples": 10, "batch_size": 4, "split": "plain", "seed": 0}
    assert [len(inputs) for inputs, _ in samples] == [4, 4, 2]


def test_a_task_without_plain_images_gives_those_of_training_drawn_by_the_seed() -> None:
    task = SimpleTask(_network, DATA, [])
    first, again, other = (_seen(ScoringSamples(task, CPU, 10, 4, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert ScoringSamples(task, CPU, 10, 4, 1).describe() == {
        "samples": 10,
        "batch_size": 4,
        "split": "train",
        "seed": 1,
    }


class _Recorded(DigitsTask):
    """Remembers which splits were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Split] = []

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        self.asked.append(split)
        return super().batches(split, batch_size, seed)


@pytest.mark.parametrize(("pruner", "splits"), [(L1_FILTER, set()), (RANDOM_FILTER, set()), (APOZ_FILTER, {"plain"})])
def test_a_study_reads_plain_images_and_only_where_they_are_needed(pruner, splits) -> None:
    task = _Recorded()
    count = 0

    def seen() -> None:
        nonlocal count
        count += 1

    samples = ScoringSamples(task, CPU, samples=100, batch_size=50, seen=seen)
    prunable = analyze(task.network(), torch.zeros(2, 1, 8, 8), pruner, samples, seed=3)
    assert set(task.asked) == splits
    assert count == (2 if splits else 0)
    assert prunable.scoring["pruner"] == pruner.name
    assert prunable.scoring["samples"] == (100 if splits else 0)
    assert prunable.scoring.get("seed") == {RANDOM_FILTER: 3, APOZ_FILTER: 0}.get(pruner)


def test_targets_reach_the_loss() -> None:
    asked: list[Tensor] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        asked.append(targets)
        return outputs.sum()

    calibration = ScoringSamples(
        SimpleTask(_network, DATA, [], plain_data=DATA, loss=loss), CPU, 4, 4
    ).calibration_data()
    for inputs, targets in calibration.batches:
        calibration.loss(_network()(inputs), targets)
    assert [targets.tolist() for targets in asked] == [[0] * 4]


def test_batches_of_fewer_samples_are_the_beginning_of_those_of_more() -> None:
    sizes = [len(inputs) for inputs, _ in Batches(tiny_task, "validation", 20, 8, 0, CPU)]
    assert sizes == [8, 8, 4]
    more = torch.cat([inputs for inputs, _ in Batches(tiny_task, "validation", 40, 64, 0, CPU)])
    few = torch.cat([inputs for inputs, _ in Batches(tiny_task, "validation", 20, 8, 0, CPU)])
    assert torch.equal(few, more[:20])


@pytest.mark.parametrize("kind", ["dataset", "loader", "list", "own sampler", "stream"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_subset_of_data_that_lie_class_by_class_holds_all_classes(split: Split, kind: str) -> None:
    labels = torch.arange(400) // 100
    data = torch.utils.data.TensorDataset(labels.float().view(-1, 1, 1, 1).repeat(1, 1, 2, 2), labels)
    loader = torch.utils.data.DataLoader(data, 16)
    given = {
        "dataset": data,
        "loader": loader,
        "list": list(loader),
        "own sampler": torch.utils.data.DataLoader(
            data, 16, sampler=torch.utils.data.SubsetRandomSampler(range(50, 350))
        ),
        "stream": _Stream(loader),
    }[kind]
    task = SimpleTask(_network, given, given)
    counts = [
        torch.cat([targets for _, targets in Batches(task, split, n, 16, 7, CPU)]).bincount(minlength=4)
        for n in (40, 80)
    ]
    assert [int(count.sum()) for count in counts] == [40, 80]
    assert all(bool((more >= few).all()) for few, more in pairwise(counts))
    assert min(counts[0]) >= (3 if kind in ("own sampler", "stream") else 9)
    others = Batches(task, split, 40, 16, 8, CPU)
    drawn = torch.cat([targets for _, targets in others])
    assert not torch.equal(drawn, torch.cat([targets for _, targets in Batches(task, split, 40, 16, 7, CPU)]))


class _Stream:
    """Batches that only pass by."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        yield from self._batches


def test_samples_of_one_class_are_said_with_the_name_of_the_split(caplog: pytest.LogCaptureFixture) -> None:
    Batches(SimpleTask(_network, [], DATA), "validation", 10, 4, 0, CPU).load()
    assert "all samples that are used of its validation split are of one class (0)" in caplog.text


def test_batches_that_do_not_fit_in_memory_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(tiny_task, "train", None, 16, 0, CPU)
    kept = batches.load()
    monkeypatch.setattr("autoprune.evaluation.data.CACHE_BYTES", 100)
    again = batches.load()
    assert again is batches
    assert all(torch.equal(one[0], other[0]) for one, other in zip(kept, again, strict=True))


class _Viewing(nn.Module):
    def forward(self, samples: Tensor) -> Tensor:
        return samples.view(len(samples), -1)


class _Striding(nn.Module):
    """Reads the memory as it lies."""

    def forward(self, samples: Tensor) -> Tensor:
        return samples.as_strided((len(samples), 12), (samples[0].numel(), 1))


def test_networks_that_need_plain_memory_get_it() -> None:
    images = torch.rand(4, 3, 6, 6)
    assert not takes_channels_last(_Striding(), ModelInputs.of(images))
    task = SimpleTask(_network, [], [(images, torch.zeros(4))])
    assert takes_channels_last(nn.Conv2d(3, 2, 3), ModelInputs.of(images))
    assert not takes_channels_last(_Viewing(), ModelInputs.of(images))
    for fitting in (True, False):
        ((inputs, _),) = Batches(task, "validation", None, 4, 0, CPU, fitting)
        assert inputs.is_contiguous(memory_format=torch.channels_last) is fitting
        assert torch.equal(inputs, images)
