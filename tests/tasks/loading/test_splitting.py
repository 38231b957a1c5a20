from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.tasks.loading.splitting import Splitter

X, Z, Y, ORDER = torch.rand(8, 3), torch.rand(8, 2), torch.arange(8) % 4, torch.arange(8)


class One(nn.Module):
    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        return x


class Two(nn.Module):
    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        return x


class Optional(nn.Module):
    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return x


class Language(nn.Module):
    def forward(self, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **kwargs: Any) -> Any:
        return input_ids


class Detector(nn.Module):
    def forward(self, pictures: Any, targets: Any = None) -> Any:
        return pictures


class Anything(nn.Module):
    def forward(self, *args: Any) -> Any:
        return args


class Named(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Record:
    x: Tensor
    meta: Tensor
    label: Tensor


def split(network: type[nn.Module], batch: Any) -> tuple[Any, Any]:
    return Splitter(network).split(batch, "train_data: batch 0")


BOXES = ({"boxes": Z}, {"boxes": Z})


@pytest.mark.parametrize(
    ("network", "batch", "inputs", "targets"),
    [
        (One, (X, Y), X, Y),
        (One, [X, Y], X, Y),
        (One, X, X, None),
        (One, (X,), X, None),
        (One, (X, Y, ORDER), X, Y),
        (Two, (X, Z, Y), (X, Z), Y),
        (Two, (X, Z, Y, ORDER), (X, Z), Y),
        (Two, ((X, Z), Y), (X, Z), Y),
        (Two, [[X, Z], Y], (X, Z), Y),
        (Anything, ((X, Z), Y), (X, Z), Y),
        (One, {"x": X, "y": Y}, {"x": X}, Y),
        (One, {"image": X, "label": Y}, X, Y),
        (One, {"x": X, "quality": Y}, {"x": X}, Y),
        (One, {"x": X}, {"x": X}, None),
        (Two, {"x": X, "meta": Z, "target": Y, "index": ORDER}, {"x": X, "meta": Z}, Y),
        (Two, {"inputs": {"x": X, "meta": Z}, "targets": Y}, {"x": X, "meta": Z}, Y),
        (Two, ({"x": X, "meta": Z}, Y), {"x": X, "meta": Z}, Y),
        (Two, Record(X, Z, Y), {"x": X, "meta": Z}, Y),
        (One, Named(X, Y), {"x": X}, Y),
        (Language, UserDict(input_ids=X, labels=Y), {"input_ids": X, "labels": Y}, Y),
        (Language, {"input_ids": X, "attention_mask": Z, "label": Y}, {"input_ids": X, "attention_mask": Z}, Y),
        (Language, {"input_ids": X}, {"input_ids": X}, None),
        (Detector, ((X, Z), BOXES), [X, Z], [*BOXES]),
        (One, ((X[0], X[1], X[2]), Y[:3]), [X[0], X[1], X[2]], Y[:3]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_what_data_yield_is_split_as_the_forward_says(network: Any, batch: Any, inputs: Any, targets: Any) -> None:
    found = split(network, batch)
    torch.testing.assert_close(found[0], inputs, rtol=0, atol=0)
    assert type(found[0]) is type(inputs)
    torch.testing.assert_close(found[1], targets, rtol=0, atol=0)
    assert type(found[1]) is type(targets)


@pytest.mark.parametrize(
    ("network", "batch", "said"),
    [
        (Optional, (X, Z, Y), r"\(Tensor, Tensor, Tensor\), and the network is called as forward\(x, lengths=…\)"),
        (Anything, (X, Z, Y), r"called as forward\(\*args\)"),
        (Language, (X, Z, Y), r"forward\(input_ids=…, attention_mask=…, labels=…, \*\*kwargs\)"),
        (Two, {"x": X, "y": Y}, r"holds x, y, which lack meta"),
        (Two, {"a": X, "b": Z, "y": Y}, r"holds a, b, y, and the network is called as forward\(x, meta\)"),
        (One, {"x": X, "a": Z, "b": Y}, r"holds x, a, b"),
        (One, (), "is empty"),
        (One, {}, "is empty"),
        (One, object(), "is a object, of which inputs and targets are not known"),
        (One, (X[0], 3), "one int as targets, as single samples have"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_cure(network: Any, batch: Any, said: str) -> None:
    with pytest.raises(TaskError, match=r"^train_data: batch 0 (holds|is|has)") as refused:
        split(network, batch)
    assert refused.match(said)
    assert "\n" not in str(refused.value)


def test_arrays_become_tensors_and_functions_that_fail_are_named() -> None:
    inputs, targets = split(One, {"x": X.numpy(), "y": [{"boxes": Z.numpy(), "name": "a"}]})
    assert torch.equal(inputs["x"], X)
    assert torch.equal(targets[0]["boxes"], Z)
    failing = Splitter(One, inputs=lambda batch: batch["x"])
    with pytest.raises(TaskError, match=r"batch 0: the task's `inputs` failed on \(float32 .*TypeError"):
        failing.split((X, Y), "train_data: batch 0")


def test_what_is_passed_over_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    splitter = Splitter(One)
    for number in range(3):
        splitter.split((X, Y, ORDER), f"train_data: batch {number}")
        splitter.split({"x": X, "y": Y, "index": ORDER}, f"train_data: batch {number}")
    assert [record.message for record in caplog.records] == [
        "train_data: of (Tensor, Tensor, Tensor) the last 1 are passed over",
        "train_data: index are passed over",
    ]


def test_pairs_are_split_without_building_the_network() -> None:
    assert Splitter(None).split((X, Y), "train_data: batch 0") == (X, Y)  # type: ignore[arg-type]
