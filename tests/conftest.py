"""What several rooms' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    """Small networks on few cores are fastest with one."""
    torch.set_num_threads(1)


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _data_root() -> Path:
    """`$AUTOPRUNE_DATA`, or `../shared/data` beside the repository; skips where neither is."""
    given = os.environ.get("AUTOPRUNE_DATA")
    root = Path(given) if given else _REPOSITORY.parent / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"no CIFAR-10: {root} does not exist; set AUTOPRUNE_DATA to a folder with cifar-10-batches-bin")
    return root


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """The folder of CIFAR-10's binary version."""
    root = _data_root() / "cifar-10-batches-bin"
    if not root.is_dir():
        pytest.skip(f"no CIFAR-10: {root} does not exist")
    return root


@pytest.fixture(scope="session")
def checkpoints_root() -> Path:
    """The folder of the published checkpoints, beside the data folder."""
    root = _data_root().resolve().parent / "checkpoints"
    if not root.is_dir():
        pytest.skip(f"no published checkpoints: {root} does not exist")
    return root
