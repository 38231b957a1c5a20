from __future__ import annotations

import argparse
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from autoprune.errors import CheckpointError
from autoprune.tasks.weight_files.pickled import read_checkpoint, write_tensors
from autoprune.tasks.weights import digest, fill, load_weights, read_state_dict, read_weights


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


def test_plain_entries_beside_the_weights_are_kept_and_what_optimizers_keep_is_not(tmp_path: Path) -> None:
    network = _linear()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    content = {
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": 3},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, milestones=[1, 2], device=torch.device("cpu")),
        "best": np.float64(0.5),
        "mean": torch.ones(3),
    }
    kept = {"epoch": 3, "args": {"lr": 0.1, "milestones": [1, 2]}, "best": 0.5}
    path = _saved(tmp_path / "w.pt", content)
    assert read_weights(path).others == kept
    assert read_weights(path, network).others == kept
    assert load_weights(network, path).others == kept
    write_tensors(tmp_path / "others.pt", kept)
    assert torch.load(tmp_path / "others.pt", weights_only=True) == kept


def test_reading_for_a_network_gives_its_names_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    network, state = _linear(1), _linear(0).state_dict()
    before = digest(network.state_dict())
    weights = read_weights(
        _saved(tmp_path / "w.pt", {"net": {f"model.{name}": t for name, t in state.items()}}), network
    )
    assert digest(weights.state) == digest(state)
    assert digest(network.state_dict()) == before


def test_what_a_user_should_know_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_weights(_linear(), _saved(tmp_path / "w.pt", _linear().half().state_dict()))
    (record,) = caplog.records
    assert record.getMessage().endswith("w.pt: converted from float16 to float32 (tensors: 2)")


def test_without_a_network_weights_of_equal_standing_are_refused_by_name(tmp_path: Path) -> None:
    state = _linear().state_dict()
    with pytest.raises(CheckpointError, match="weights under first and second, and each may be meant"):
        read_state_dict(_saved(tmp_path / "w.pt", {"first": state, "second": state | {}}))
    small = {"weight": torch.ones(1)}
    assert len(read_state_dict(_saved(tmp_path / "w.pt", {"first": state, "second": small}))) == 2
    assert len(read_state_dict(_saved(tmp_path / "w.pt", {"net": small, "first": state}))) == 1


class Namespaces:
    """Something of the user's own."""


class Stateful(nn.Linear):
    """Keeps a dictionary with a tensor beside its weights."""

    memory: Any = None

    def get_extra_state(self) -> Any:
        return self.memory

    def set_extra_state(self, state: Any) -> None:
        self.memory = state


def test_extra_state_reaches_the_module_and_counts_in_the_digest(tmp_path: Path) -> None:
    network, other = nn.Sequential(Stateful(3, 2)), nn.Sequential(Stateful(3, 2))
    network[0].memory = {"steps": 3, "scale": torch.ones(2)}
    load_weights(other, _saved(tmp_path / "w.pt", {"epoch": 1, "net": network.state_dict()}))
    assert other[0].memory["steps"] == 3
    known = digest(other.state_dict())
    assert known == digest(network.state_dict())
    for memory in ({"steps": 4, "scale": torch.ones(2)}, {"steps": 3, "scale": torch.zeros(2)}, {"step": 3}):
        network[0].memory = memory
        assert digest(network.state_dict()) != known


def test_extra_state_of_an_unknown_class_is_refused_by_name(tmp_path: Path) -> None:
    network = nn.Sequential(Stateful(3, 2))
    network[0].memory = Namespaces()
    with pytest.raises(CheckpointError, match=r"_extra_state a .*Namespaces, which would execute code"):
        load_weights(nn.Sequential(Stateful(3, 2)), _saved(tmp_path / "w.pt", network.state_dict()))


class Renaming(nn.Linear):
    """Reads weights from before it was renamed."""

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name in [name for name in state_dict if name.startswith(f"{prefix}old_")]:
            state_dict[name.replace("old_", "")] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_a_network_that_reads_older_names_by_itself_does_so(tmp_path: Path) -> None:
    network, state = nn.Sequential(Renaming(3, 2)), _linear().state_dict()
    older = {f"module.0.old_{name}": value for name, value in state.items()}
    load_weights(network, _saved(tmp_path / "w.pt", {"net": older}))
    assert torch.equal(network[0].weight, state["weight"])
    before = digest(network.state_dict())
    for wrong in (
        {"0.old_weight": torch.zeros(2, 3)},
        {**older, "extra": torch.ones(3)},
        dict.fromkeys(older, torch.nan),
    ):
        bad = {name: torch.full((2, 3), value) if isinstance(value, float) else value for name, value in wrong.items()}
        with pytest.raises(CheckpointError, match="does not fit the network Sequential"):
            load_weights(network, _saved(tmp_path / "w.pt", bad))
        assert digest(network.state_dict()) == before


class Versioned(nn.Linear):
    """Reads files of its first version otherwise."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}weight"] = -state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_modules_know_the_version_that_they_were_saved_in(prefix: str, tmp_path: Path) -> None:
    holder = nn.Module()
    network = nn.Sequential(Versioned(3, 2))
    holder.add_module(prefix[:-1] or "model", network)
    state = holder.state_dict() if prefix else network.state_dict()
    other = nn.Sequential(Versioned(3, 2))
    load_weights(other, _saved(tmp_path / "w.pt", state))
    assert torch.equal(other[0].weight, network[0].weight)
    load_weights(other, _saved(tmp_path / "w.pt", dict(state)))
    assert torch.equal(other[0].weight, -network[0].weight)


def test_infinities_that_the_network_has_by_itself_are_no_fault(tmp_path: Path) -> None:
    def masked() -> nn.Module:
        network = nn.Linear(2, 2)
        network.register_buffer("mask", torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))
        return network

    load_weights(masked(), _saved(tmp_path / "w.pt", masked().state_dict()))
    with pytest.raises(CheckpointError, match="NaN or infinite weights in mask"):
        load_weights(
            masked(), _saved(tmp_path / "w.pt", masked().state_dict() | {"mask": torch.full((2, 2), torch.inf)})
        )


def test_weights_beyond_the_range_of_the_networks_type_are_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path / "w.pt", {"weight": torch.full((2, 3), 1e6), "bias": torch.ones(2)})
    with pytest.raises(CheckpointError, match="NaN or infinite weights in weight as float16"):
        load_weights(_linear().half(), path)
    load_weights(_linear().bfloat16(), path)


@pytest.mark.parametrize(
    ("own", "given", "fits"),
    [
        (torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 2.0]), True),
        (torch.zeros(2, dtype=torch.int64), torch.tensor([1.0, 2.5]), False),
        (torch.zeros(2, dtype=torch.int64), torch.tensor([1, 2], dtype=torch.int32), True),
        (torch.zeros(2, dtype=torch.int8), torch.tensor([1, 200]), False),
        (torch.zeros(2, dtype=torch.bool), torch.tensor([1, 0], dtype=torch.uint8), True),
        (torch.zeros(2, dtype=torch.bool), torch.tensor([1, 2], dtype=torch.uint8), False),
        (torch.zeros(2), torch.tensor([1, 2], dtype=torch.int8), False),
        (torch.zeros(2), torch.tensor([1, 2j]), False),
    ],
)
def test_entries_of_another_kind_are_taken_where_no_value_changes(own: Tensor, given: Tensor, fits: bool) -> None:
    network = nn.Module()
    network.register_buffer("b", own)
    if fits:
        fill(network, {"b": given}, "it")
        assert network.get_buffer("b").tolist() == given.tolist()
    else:
        with pytest.raises(CheckpointError, match=r"it holds b as \w+ instead of"):
            fill(network, {"b": given}, "it")


def test_different_weights_for_what_is_one_tensor_are_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    path = _saved(tmp_path / "w.pt", {"0.weight": torch.ones(2, 2), "1.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match=r"different weights under 0\.weight and 1\.weight, which are one tensor"):
        load_weights(network, path)
    load_weights(network, _saved(tmp_path / "w.pt", {"0.weight": torch.ones(2, 2), "1.weight": torch.ones(2, 2)}))
    load_weights(network, _saved(tmp_path / "w.pt", {"1.weight": torch.zeros(2, 2)}))
    assert network[0].weight.sum() == 0


def test_a_message_stays_one_line_whatever_the_names_are(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(_linear(), _saved(tmp_path / "w.pt", {"a\nb": torch.ones(3), "\x1b[31m": torch.ones(3)}))
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_of_the_snapshot_of_a_training_it_is_said_that_masks_are_not_held(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    torch.save({"snapshot": 1, "step": 3, "state_dict": network.state_dict()}, tmp_path / "snapshot.pt")
    assert "masks are not held" in " ".join(read_weights(tmp_path / "snapshot.pt", network).remarks)
