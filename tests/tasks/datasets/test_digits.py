from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.errors import CheckpointError, TaskError
from autoprune.tasks.base import Hook, Split, Task
from autoprune.tasks.datasets import digits
from autoprune.tasks.datasets.digits import DigitsTask, cache_file, read_cache
from autoprune.tasks.loading.drawing import stratified_order
from autoprune.tasks.metrics import top_1
from autoprune.tasks.models.named import named_model
from autoprune.tasks.weights import digest

MODEL = named_model("digits_resnet")
FIRST_TEST_LABELS = [0, 4, 1, 3, 7, 8, 6, 5, 2, 9, 0, 4]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """First use in three steps."""
    monkeypatch.setattr(digits, "FIRST_USE", replace(digits.FIRST_USE, steps=3, epochs=None))


def _loaded(progress: Hook | None = None) -> str:
    task = DigitsTask(progress=progress)
    network = task.network()
    task.load(network, None)
    return digest(network.state_dict())


def test_splits_share_no_image_and_hold_every_digit_alike() -> None:
    task: Task = DigitsTask()
    seen: list[bytes] = []
    splits: list[tuple[Split, int]] = [("plain", 1000), ("validation", 400), ("test", 397)]
    for split, size in splits:
        [(inputs, labels)] = task.batches(split, 2000)
        assert inputs.shape == (size, 1, 8, 8)
        counts = torch.bincount(labels, minlength=10) / size
        assert counts.min() > 0.09
        assert counts.max() < 0.11
        seen += [image.numpy().tobytes() for image in inputs]
    assert len(set(seen)) == len(seen) == 1797


def test_split_is_the_same_everywhere() -> None:
    [(_, labels)] = DigitsTask().batches("test", 2000)
    assert labels[:12].tolist() == FIRST_TEST_LABELS


def test_every_prefix_of_the_order_is_stratified() -> None:
    labels = torch.tensor([0] * 30 + [1] * 60).numpy()
    order = stratified_order(labels, 0)
    assert sorted(order.tolist()) == list(range(90))
    for length in (30, 45, 60):
        assert abs((labels[order[:length]] == 0).sum() - length / 3) <= 1


def test_inputs_are_centred_with_a_deviation_near_one() -> None:
    [(inputs, _)] = DigitsTask().batches("plain", 1000)
    assert abs(inputs.mean()) < 0.01
    assert abs(inputs.std() - 1) < 0.01


def test_network_trained_on_first_use_recognises_98_of_100_digits(cache_home: Path) -> None:
    task = DigitsTask()
    network = task.network()
    task.load(network, None)
    network.eval()
    [(inputs, labels)] = task.batches("validation", 400)
    with torch.inference_mode():
        assert top_1(network(inputs), labels).mean() > 0.98


def test_second_use_reads_the_cache_and_trains_no_more(cache_home: Path, short: None) -> None:
    steps: list[int] = []
    progress = Hook(after_step=lambda network, step, of, loss: steps.append(step))
    first = _loaded(progress)
    assert steps == [1, 2, 3]
    assert [path.name for path in (cache_home / "autoprune").iterdir()] == [cache_file(MODEL).name]
    assert _loaded(progress) == first
    assert steps == [1, 2, 3]


def test_training_on_first_use_does_not_depend_on_global_randomness(
    cache_home: Path, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    first = _loaded()
    cache_file(MODEL).unlink()
    torch.manual_seed(2)
    assert _loaded() == first


@pytest.mark.parametrize("damage", ["truncated", "flipped bit", "text", "another network"])
def test_damaged_cache_is_trained_anew(damage: str, cache_home: Path, short: None) -> None:
    first, path = _loaded(), cache_file(MODEL)
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"truncated": content[:-100], "flipped bit": flipped}.get(damage, b"text"))
    if damage == "another network":
        torch.save({"state_dict": [1], "digest": "x"}, path)
    assert read_cache(path) is None
    assert _loaded() == first
    assert read_cache(path) is not None


def test_another_plan_has_another_cache_file(cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = cache_file(MODEL)
    monkeypatch.setattr(digits, "FIRST_USE", replace(digits.FIRST_USE, epochs=1))
    assert cache_file(MODEL) != first
    assert cache_file(replace(MODEL, builder=lambda: nn.Linear(1, 1))) != cache_file(MODEL)


def test_cache_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: None
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert _loaded() == _loaded()
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_write_that_fails_leaves_no_file_behind(cache_home: Path, monkeypatch: pytest.MonkeyPatch, short: None) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    _loaded()
    assert list((cache_home / "autoprune").iterdir()) == []


def test_checkpoint_is_preferred_to_the_cache(cache_home: Path, tmp_path: Path) -> None:
    task = DigitsTask()
    source, network = task.network(), task.network()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    task.load(network, tmp_path / "w.pt")
    assert digest(network.state_dict()) == digest(source.state_dict())
    assert not cache_home.exists()


def test_data_folder_and_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="takes no --data"):
        DigitsTask(data=tmp_path)
    with pytest.raises(TaskError, match="'resnet20' does not fit task 'digits'; it takes digits_resnet"):
        DigitsTask("resnet20")


def test_own_network_needs_a_checkpoint(cache_home: Path) -> None:
    task = DigitsTask(lambda: nn.Linear(1, 1))
    with pytest.raises(CheckpointError, match="needs --checkpoint"):
        task.load(task.network(), None)
