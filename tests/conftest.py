"""What several rooms' tests share."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from autoprune.files import write_whole
from autoprune.graph import costs
from autoprune.graph.costs import measure_latency
from autoprune.reporting.drawing import png
from autoprune.running.search import results, sensitivity
from autoprune.tasks.datasets.digits import DigitsTask
from tests.journeys import Cli, DigitsRun, make_digits_run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", metavar="K/N", help="only every N-th of the tests, beginning with the K-th by a digest")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps a fixed share of the tests, the same everywhere: those whose names' digests fall into it."""
    share = config.getoption("--share")
    if share is None:
        return
    part, parts = map(int, share.split("/"))
    kept = [item for item in items if zlib.crc32(item.nodeid.encode()) % parts == part - 1]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    """Small networks on few cores are fastest with one."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def brief_ends() -> Iterator[None]:
    """Ends of searches that take no seconds: latencies are measured briefly, and figures are not drawn.

    Those of `digits_run` and of tests that ask for `drawn` are as users have them.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (results, costs):  # commands take it from where it stands
            patch.setattr(module, "measure_latency", partial(measure_latency, seconds=0.0))
        for module in (results, sensitivity):
            patch.setattr(module, "png", lambda _, path: write_whole(path, bytes(30_000)))
        yield


@contextmanager
def _full_ends() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "measure_latency", measure_latency)
        for module in (results, sensitivity):
            patch.setattr(module, "png", png)
        yield


@pytest.fixture
def drawn() -> Iterator[None]:
    """Draws the figures at the end of a search, and measures latencies for a second."""
    with _full_ends():
        yield


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


def _shared(folders: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all processes of this run of pytest share."""
    root = folders.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the place of the user's cache folder, in which the digits' network is trained once for all tests."""
    home = _shared(tmp_path_factory, "home")
    with pytest.MonkeyPatch.context() as patch, FileLock(home.with_suffix(".lock")):
        patch.setenv("XDG_CACHE_HOME", str(home))
        torch.set_num_threads(1)
        task = DigitsTask()
        task.load(task.network(), None)
    return home


@pytest.fixture
def workdir(trained_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one; the digits' network is trained, MLflow's settings are its defaults."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(trained_home))
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    return folder


@pytest.fixture
def autoprune(workdir: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Types a command in `workdir`, in this process."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handler of the test process stays
    return Cli(capfd)


@pytest.fixture(scope="session")
def digits_run(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> DigitsRun:
    """A finished search on digits, mirrored in MLflow; not to be changed (`copy` it first)."""
    home = _shared(tmp_path_factory, "digits")
    with _full_ends(), FileLock(home.with_suffix(".lock")):
        made = DigitsRun(home, home / "run")
        return made if made.folder.exists() else make_digits_run(home, trained_home)
