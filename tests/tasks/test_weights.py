from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from autoprune.errors import CheckpointError
from autoprune.tasks.weight_files.pickled import read_checkpoint
from autoprune.tasks.weights import digest, load_weights, read_state_dict


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _linear(seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(3, 2)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_nested_state_dict_is_taken_out_and_its_prefix_removed(key: str, tmp_path: Path) -> None:
    weights = _linear().state_dict()
    path = _saved(tmp_path / "w.pt", {"epoch": 3, key: {f"module.{name}": t for name, t in weights.items()}})
    read = read_state_dict(path)
    assert list(read) == ["weight", "bias"]
    assert torch.equal(read["weight"], weights["weight"])


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        AveragedModel,
        lambda bare: torch.compile(nn.DataParallel(bare)),
        lambda bare: nn.DataParallel(bare),
    ],
)
def test_weights_of_wrapped_networks_are_those_of_the_network(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    bare = nn.Linear(3, 2)
    found = read_state_dict(_saved(tmp_path / "w.pt", wrap(bare).state_dict()))
    assert list(found) == ["weight", "bias"]
    assert torch.equal(found["weight"], bare.weight)


def test_prefix_stays_where_only_some_names_have_it(tmp_path: Path) -> None:
    path = _saved(tmp_path / "w.pt", {"module.a": torch.ones(1), "b": torch.ones(1)})
    assert list(read_state_dict(path)) == ["module.a", "b"]


def test_entry_named_model_that_holds_no_tensors_is_not_taken(tmp_path: Path) -> None:
    path = _saved(tmp_path / "w.pt", {"model": "resnet20", "state_dict": {"a": torch.ones(1)}})
    assert list(read_state_dict(path)) == ["a"]


def test_weights_are_loaded_in_place(tmp_path: Path) -> None:
    network = _linear(1)
    load_weights(network, _saved(tmp_path / "w.pt", _linear(0).state_dict()))
    assert torch.equal(network.weight, _linear(0).weight)


def test_file_without_batch_counters_is_loaded(tmp_path: Path) -> None:
    network = nn.BatchNorm2d(2)
    state = {name: tensor + 1 for name, tensor in network.state_dict().items() if name != "num_batches_tracked"}
    load_weights(network, _saved(tmp_path / "w.pt", state))
    assert network.running_mean is not None
    assert network.running_mean.tolist() == [1, 1]


def test_error_lists_missing_unexpected_and_misshapen_keys_and_leaves_the_network(tmp_path: Path) -> None:
    network = _linear()
    before = digest(network.state_dict())
    state = {"weight": torch.zeros(5, 3), **{f"extra{i}": torch.zeros(1) for i in range(8)}}
    with pytest.raises(CheckpointError) as caught:
        load_weights(network, _saved(tmp_path / "w.pt", state))
    message = str(caught.value)
    assert "missing: bias;" in message
    assert "unexpected: extra0, extra1, extra2, extra3, extra4 and 3 more" in message
    assert "of another shape: weight [5, 3] instead of [2, 3]" in message
    assert digest(network.state_dict()) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, tmp_path: Path) -> None:
    state = {"weight": torch.zeros(2, 3), "bias": torch.tensor([0.0, value])}
    with pytest.raises(CheckpointError, match="NaN or infinite weights in bias"):
        load_weights(_linear(), _saved(tmp_path / "w.pt", state))


@pytest.mark.parametrize("way", ["torch.save", "torch.save, old format", "pickle"])
def test_file_that_would_execute_code_is_refused_and_does_not_run(way: str, tmp_path: Path) -> None:
    path, made = tmp_path / "w.pt", tmp_path / "made"
    if way == "pickle":
        path.write_bytes(pickle.dumps({"a": Evil(made)}))
    else:
        torch.save({"a": Evil(made)}, path, _use_new_zipfile_serialization=way == "torch.save")
    with pytest.raises(CheckpointError, match=r"refused: .*execute code.*model\.state_dict\(\)"):
        read_state_dict(path)
    assert not made.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_of_a_whole_network_is_refused_and_names_its_class(zipped: bool, tmp_path: Path) -> None:
    torch.save(_linear(), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused: .*\(torch\.nn\.modules\.linear\.Linear\).*state_dict\(\)"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(_linear()), buffer)
    (tmp_path / "w.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file_is_called_truncated(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(2000)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"hello world " * 20, b"\x10\x00junk" * 9, b"{}"])
def test_file_that_is_no_checkpoint_is_called_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_state_dict(tmp_path / "w.pt")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.pt does not exist"):
        read_checkpoint(tmp_path / "gone.pt")
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "described"),
    [
        ({}, "an empty dictionary"),
        ({"epoch": 3, "weights": ["a"]}, "the entries epoch, weights"),
        ([1], "a list"),
        (torch.ones(1), "a Tensor"),
    ],
)
def test_file_without_a_state_dict_says_what_it_holds(content: Any, described: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=described):
        read_state_dict(_saved(tmp_path / "w.pt", content))


def test_digest_sees_names_types_shapes_and_values_but_not_the_order() -> None:
    a, b = torch.arange(4.0), torch.zeros((), dtype=torch.bfloat16)
    known = digest({"a": a, "b": b})
    assert digest({"b": b.clone(), "a": a.clone()}) == known
    others = [{"c": a, "b": b}, {"a": a.view(torch.int32), "b": b}, {"a": a.view(2, 2), "b": b}, {"a": a + 1, "b": b}]
    assert len({known, *(digest(other) for other in others)}) == 5


@pytest.mark.parametrize("zipped", [True, False])
def test_every_truncation_of_a_checkpoint_is_told_as_one(tmp_path: Path, zipped: bool) -> None:
    whole = tmp_path / "whole.pt"
    torch.save(nn.Linear(3, 2).state_dict(), whole, _use_new_zipfile_serialization=zipped)
    content = whole.read_bytes()
    cut = tmp_path / "cut.pt"
    for length in range(2, len(content), 41):
        cut.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"truncated or damaged|refused|not a checkpoint"):
            read_state_dict(cut)


def test_a_refusal_names_what_would_be_called(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"would execute code \(.*exec\)"):
        read_state_dict(tmp_path / "evil.pt")
