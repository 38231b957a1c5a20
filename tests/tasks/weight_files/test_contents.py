from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.errors import CheckpointError
from autoprune.tasks.weight_files.contents import read_content
from autoprune.tasks.weights import load_weights
from tests.tasks.weight_files.writers import folder_of, safetensors

INDEX = "pytorch_model.bin.index.json"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": "../../w.bin"}}',
        b"\xff",
    ],
)
def test_an_index_that_lists_nothing_or_leads_elsewhere_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(content)
    for path in (tmp_path, tmp_path / INDEX):
        with pytest.raises(CheckpointError, match=r"index\.json lists no shards under weight_map"):
            read_content(path)


def test_an_entry_that_its_shard_does_not_hold_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "one.bin")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "one.bin", "b": "one.bin"}}))
    with pytest.raises(CheckpointError, match=r"lists b, which one\.bin does not hold"):
        read_content(tmp_path)


def test_folders_of_other_checkpoints_and_a_run_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "outer" / "checkpoint-5").mkdir(parents=True)
    torch.save({"a": torch.ones(1)}, tmp_path / "outer" / "checkpoint-5" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"give one of the folders in it \(checkpoint-5\)"):
        read_content(tmp_path / "outer")
    (tmp_path / "ledger.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="`autoprune apply` makes a file of weights"):
        read_content(tmp_path)


def test_a_link_to_nothing_and_a_pipe_are_named_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("blobs/gone")
    with pytest.raises(CheckpointError, match="is a link to blobs/gone, which does not exist"):
        read_content(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is no regular file"):
        read_content(tmp_path / "pipe")


@pytest.mark.parametrize("cut", [4, 9, 60, 500])
def test_safetensors_that_are_cut_off_are_called_so(cut: int, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    safetensors(tmp_path / "w.safetensors", nn.Linear(30, 20).state_dict())
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"truncated or damaged|not a checkpoint"):
        read_content(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "write",
    [
        lambda path, state: torch.save(state, path.with_suffix(".safetensors")),
        lambda path, state: safetensors(path.with_suffix(".pt"), state),
    ],
)
def test_the_content_tells_the_format_and_not_the_name(write: Callable[[Path, Any], None], tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    network = nn.Linear(3, 2)
    write(tmp_path / "w", network.state_dict())
    (path,) = tmp_path.iterdir()
    other = nn.Linear(3, 2)
    load_weights(other, path)
    assert torch.equal(other.weight, network.weight)


def test_compressed_archives_are_read_as_they_are_meant(tmp_path: Path) -> None:
    network = nn.Linear(300, 20)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as plain,
        zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    other = nn.Linear(300, 20)
    load_weights(other, tmp_path / "c.pt")
    assert torch.equal(other.weight, network.weight)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_tensors_are_mapped_and_read_when_they_are_used(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    path = tmp_path / "w.pt"
    torch.save({"model": network.state_dict(), "optimizer": {"state": {0: torch.zeros(1 << 20)}}}, path)
    content = read_content(path)
    assert torch.equal(content["model"]["weight"], network.weight)
    assert str(path) in Path("/proc/self/maps").read_text()


def test_a_folder_of_hugging_face_may_hold_others_beside_the_weights(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    path = folder_of("pytorch_model.bin")(tmp_path, network.state_dict())
    torch.save({"rate": 0.1}, tmp_path / "training_args.bin")
    torch.save({"state": {}, "param_groups": []}, tmp_path / "optimizer.pt")
    load_weights(nn.Linear(3, 2), path)
