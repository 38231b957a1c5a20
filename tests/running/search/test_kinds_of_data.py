"""Searches on data as people have them: what batches may be, in which order they lie, how large the last one is."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune

X, Y = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) // 16
META, ORDER = torch.rand(64, 2), torch.arange(64)


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.last = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.b(F.relu(self.norm(self.a(x))))).mean((2, 3)))


class Two(Pictures):
    def forward(self, x: Tensor, meta: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + meta.sum(1, keepdim=True)


class Classifier(nn.Module):
    """Computes its loss where it has labels, as networks of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.a, self.b = nn.Embedding(16, 8), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        seen = self.words(input_ids) * attention_mask[:, :, None]
        logits = self.b(F.relu(self.a(seen.mean(1))))
        return SimpleNamespace(logits=logits, loss=None if labels is None else F.cross_entropy(logits, labels))


class Recurrent(nn.Module):
    """Time first, as torch's recurrent layers are."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.r, self.o = nn.Linear(6, 16), nn.LSTM(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.r(F.relu(self.i(x)))[0][-1])


class Flat(nn.Module):
    """Of PyTorch's first tutorial: its `view` needs plain memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 3), nn.Linear(216, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)).view(-1, 216))))


class Dense(nn.Module):
    """Batch norm that needs more than one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(192, 16), nn.BatchNorm1d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.norm(self.a(x.flatten(1)))))


@dataclass
class Record:
    x: Tensor
    meta: Tensor
    label: Tensor


def ready(*parts: Any, make: Any = lambda *parts: parts) -> list[Any]:
    """Batches of 16 samples."""
    return [make(*(part[i : i + 16] for part in parts)) for i in range(0, 64, 16)]


IDS, MASK = torch.randint(16, (64, 5), generator=torch.Generator().manual_seed(0)), torch.ones(64, 5)
LETTERS = torch.rand(64, 10, 6)

KINDS: dict[str, tuple[Any, Any]] = {
    "class by class": (Pictures, DataLoader(TensorDataset(X, Y), 16)),
    "view": (Flat, TensorDataset(X, Y)),
    "a rest of one": (Dense, TensorDataset(X[:33], Y[:33])),
    "triples": (Pictures, TensorDataset(X, Y, ORDER)),
    "two inputs": (Two, TensorDataset(X, META, Y)),
    "nested": (Two, [((x, meta), y) for x, meta, y in ready(X, META, Y)]),
    "records": (Two, ready(X, META, Y, make=Record)),
    "mappings": (Two, ready(X, META, Y, ORDER, make=lambda x, m, y, i: {"x": x, "meta": m, "target": y, "index": i})),
    "labels inside": (
        Classifier,
        ready(IDS, MASK, Y, make=lambda ids, mask, y: UserDict(input_ids=ids, attention_mask=mask, labels=y)),
    ),
    "time first": (Recurrent, [(x.transpose(0, 1), y) for x, y in ready(LETTERS, Y)]),
    "no targets": (Pictures, TensorDataset(X)),
    "batches of one": (Dense, DataLoader(TensorDataset(X, Y), 1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_counts_every_sample_of_any_kind_of_data_once(kind: str, tmp_path: Path) -> None:
    network, data = KINDS[kind]
    task = autoprune.SimpleTask(network, data, data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network()
    found = autoprune.search(
        model,
        task,
        "flops=0.9",
        trials=1,
        searcher="uniform",
        progress=False,
        track__enabled=False,
        output=tmp_path / "run",
        evaluation__samples=24,
        space__protect=[],
        search__rerank__top=1,
        evaluation__objective="kl" if kind == "no targets" else "loss",
    )
    whole = 33 if kind == "a rest of one" else 64
    assert [result.validation.samples for result in found.results] == [whole] * len(found.results)
    if kind == "no targets":
        assert [result.validation.loss for result in found.results] == [r.validation.kl for r in found.results]
    assert {trial.outcome.samples for trial in found.trials} == {24}
