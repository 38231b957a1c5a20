from __future__ import annotations

import argparse
import collections
import datetime
import functools
import inspect
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import CheckpointError
from autoprune.tasks.weight_files.pickled import read_checkpoint
from autoprune.tasks.weight_files.records import Record
from autoprune.tasks.weights import load_weights, read_weights
from tests.tasks.weight_files.writers import Config, Phase, Settings


class Calls:
    """Calls something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.what = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


class Items(list):  # type: ignore[type-arg]
    """A list of the user's own."""


ran: list[str] = []


class Trap:
    """Runs on every way in that a pickle has."""

    def __init__(self, *_: Any) -> None:
        ran.append("init")

    def __new__(cls, *_: Any) -> Trap:
        ran.append("new")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        ran.append("setstate")


def _read(path: Path, value: Any, old: bool) -> Any:
    torch.save({"value": value}, path, _use_new_zipfile_serialization=not old)
    return read_checkpoint(path)["value"]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float64(0.5), 0.5),
        (np.int32(-3), -3),
        (np.bool_(True), True),
        (np.str_("adam"), "adam"),
        (np.array(2.0, dtype=">f4"), np.array(2.0)),
        (np.arange(6.0).reshape(2, 3).T, np.arange(6.0).reshape(2, 3).T),
        (np.array(["a", "bc"]), np.array(["a", "bc"])),
        (argparse.Namespace(lr=0.1, out=Path("a/b")), {"lr": 0.1, "out": "a/b"}),
        (types.SimpleNamespace(a=argparse.Namespace(b=1)), {"a": {"b": 1}}),
        (collections.defaultdict(list, {"loss": [1.0, np.float32(0.5)]}), {"loss": [1.0, 0.5]}),
        (collections.deque([1, 2], maxlen=5), [1, 2]),
        (frozenset([3]), [3]),
        (Config(a=Config(b=[1])), {"a": {"b": [1]}}),
        (Items([1, Items([2])]), [1, [2]]),
        ((1, (np.int64(2), [np.int64(3)])), (1, (2, [3]))),
    ],
    ids=repr,
)
def test_what_holds_plain_values_is_read_as_such(value: Any, plain: Any, old: bool, tmp_path: Path) -> None:
    read = _read(tmp_path / "w.pt", value, old)
    if isinstance(plain, np.ndarray):
        assert np.array_equal(read, plain)
    else:
        assert read == plain
        assert type(read) is type(plain) or isinstance(read, dict)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Settings(), "tests.tasks.weight_files.writers.Settings"),
        (Phase.LAST, "tests.tasks.weight_files.writers.Phase"),
        (datetime.datetime(2026, 11, 30), "datetime.datetime"),
        (functools.partial(int, 3), "functools.partial"),
        (np.array([1, "a"], dtype=object), "numpy.ndarray"),
    ],
)
def test_objects_of_other_classes_are_records(value: Any, name: str, old: bool, tmp_path: Path) -> None:
    read = _read(tmp_path / "w.pt", value, old)
    assert isinstance(read, Record)
    assert read.name == name


def test_functions_may_be_named_but_not_called(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    torch.save(
        {"net": state, "loss": nn.functional.cross_entropy, "layer": nn.Conv2d, "kind": np.float32}, tmp_path / "w.pt"
    )
    load_weights(nn.Linear(3, 2), tmp_path / "w.pt")
    torch.save({"net": state, "loss": Calls(nn.functional.relu, torch.ones(1))}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"would execute code \(torch\.nn\.functional\.relu\)"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pt")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda path: Calls(os.mkdir, path),
        lambda path: Calls(eval, f"__import__('os').mkdir({path!r})"),
        lambda path: Calls(getattr, "abc", "upper"),
        lambda path: Calls(Path.touch, Path(path)),
        lambda path: Calls(np.save, path, 1),
    ],
)
def test_a_call_beside_good_weights_is_refused_and_not_made(
    call: Callable[[str], Calls], old: bool, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    content = {"state_dict": nn.Linear(3, 2).state_dict(), "x": call(str(made))}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError, match=r"refused: loading it would execute code"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pt")
    assert not list(tmp_path.glob("made*"))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: Calls(Trap, x)])
def test_no_code_of_a_class_runs_that_a_file_names(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    content = {"state_dict": nn.Linear(3, 2).state_dict(), "x": wrap(Trap())}
    torch.save(content, tmp_path / "w.pt")
    ran.clear()
    read_weights(tmp_path / "w.pt", nn.Linear(3, 2))
    assert not ran


def test_reading_leaves_the_classes_that_torch_allows_as_they_were(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Linear(3, 2).state_dict(), "x": Settings()}, tmp_path / "w.pt")
    with torch.serialization.safe_globals([Settings]):
        before = set(torch.serialization.get_safe_globals())
        read_checkpoint(tmp_path / "w.pt")
        assert set(torch.serialization.get_safe_globals()) == before
        assert isinstance(torch.load(tmp_path / "w.pt", weights_only=True)["x"], Settings)


def test_content_that_contains_itself_or_is_deep_is_no_trap(tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    loop: list[Any] = [1]
    loop.append(loop)
    torch.save({"net": state, "loop": loop, "epoch": 3}, tmp_path / "w.pt")
    assert dict(read_weights(tmp_path / "w.pt").others) == {"epoch": 3}
    wide: Any = ["a"]
    for _ in range(60):
        wide = [wide] * 10  # 10 to the 60 items, where each is gone through
    torch.save({"net": state, "wide": wide}, tmp_path / "w.pt")
    read_weights(tmp_path / "w.pt")
    deep: Any = ["a"]
    for _ in range(400):
        deep = [deep]
    torch.save({"net": state, "deep": deep}, tmp_path / "w.pt")
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 150)
        with pytest.raises(CheckpointError, match="nested too deeply"):
            read_weights(tmp_path / "w.pt")
    finally:
        sys.setrecursionlimit(before)
