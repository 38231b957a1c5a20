from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.errors import CheckpointError, DataError, TaskError, UnknownName
from autoprune.tasks.base import Task
from autoprune.tasks.datasets.cifar10 import RECORDS, Cifar10Task
from autoprune.tasks.metrics import top_1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Black images of the right number; the label of a test record says which half it is in."""
    folder = tmp_path_factory.mktemp("cifar")
    records = np.zeros((RECORDS, 3073), dtype=np.uint8)
    records.tofile(folder / "data_batch_3.bin")
    records[RECORDS // 2 :, 0] = 1
    records.tofile(folder / "test_batch.bin")
    return folder


def test_validation_is_the_first_half_of_the_test_batch_and_test_the_last(folder: Path) -> None:
    task: Task = Cifar10Task(data=folder)
    for split, label in (("validation", 0), ("test", 1)):
        labels = torch.cat([labels for _, labels in task.batches(split, 1000)])  # type: ignore[arg-type]
        assert labels.tolist() == [label] * 5000


def test_training_batches_that_are_there_are_counted(folder: Path) -> None:
    task = Cifar10Task(data=folder)
    assert task.training_images == 10_000
    assert "10,000 training images (1 of 5 batches)" in str(task)


def test_inputs_are_normalised_with_the_published_means_and_deviations(folder: Path) -> None:
    inputs, _ = next(iter(Cifar10Task(data=folder).batches("plain", 1)))
    expected = torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(inputs[0, :, 5, 5], expected)


def test_task_without_data_or_checkpoint_or_with_a_model_that_does_not_fit_says_so(folder: Path) -> None:
    with pytest.raises(DataError, match="needs --data"):
        Cifar10Task()
    task = Cifar10Task(data=folder)
    with pytest.raises(CheckpointError, match="needs --checkpoint"):
        task.load(task.network(), None)
    with pytest.raises(TaskError, match="'digits_resnet' does not fit task 'cifar10'"):
        Cifar10Task("digits_resnet", folder)
    with pytest.raises(UnknownName, match="did you mean 'resnet20'"):
        Cifar10Task("resnet_20", folder)


def test_default_network_is_resnet20_and_a_function_brings_another(folder: Path) -> None:
    assert Cifar10Task(data=folder).model_name == "resnet20"
    assert len(list(Cifar10Task("resnet56", folder).network().modules())) == 169
    assert isinstance(Cifar10Task(torch.nn.Flatten, folder).network(), torch.nn.Flatten)


@pytest.mark.parametrize(("split", "published"), [("validation", 91.92), ("test", 91.54)])
def test_published_resnet20_classifies_real_images_as_published(
    split: str, published: float, cifar_root: Path, checkpoints_root: Path
) -> None:
    task = Cifar10Task("resnet20", cifar_root)
    network = task.network().eval()
    task.load(network, checkpoints_root / "resnet20_cifar10.th")
    inputs, labels = next(iter(task.batches(split, 1000)))  # type: ignore[arg-type]
    with torch.inference_mode():
        accuracy = 100 * top_1(network(inputs.contiguous(memory_format=torch.channels_last)), labels).mean()
    assert accuracy > 90
    assert accuracy == pytest.approx(published, abs=2)


def test_augmented_training_images_are_still_known_by_heart(cifar_root: Path, checkpoints_root: Path) -> None:
    """Wrong colours, a wrong frame or mixed-up labels would cost far more than the augmentation does."""
    task = Cifar10Task("resnet20", cifar_root)
    network = task.network().eval()
    task.load(network, checkpoints_root / "resnet20_cifar10.th")
    inputs, labels = next(iter(task.batches("train", 500, seed=1)))
    with torch.inference_mode():
        assert top_1(network(inputs), labels).mean() > 0.97
