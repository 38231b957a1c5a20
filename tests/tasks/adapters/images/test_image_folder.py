from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError, TaskError, UserError
from autoprune.tasks.adapters.images.image_folder import image_folder
from autoprune.tasks.metrics import ACCURACY, TOP_5
from autoprune.tasks.simple import build_task
from tests.tasks.adapters.images.folders import write_images

SMALL = {"image_size": 8}


def network(classes: int, channels: int = 3) -> Callable[[], nn.Module]:
    """A network of images of any size."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
        )

    return build


def three_classes() -> nn.Module:
    return network(3)()


def test_a_folder_is_a_task_with_its_images_in_batches(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("validation", 4)):
        write_images(tmp_path / part, count=count)
    task = image_folder(three_classes, tmp_path, options=SMALL)
    assert (task.name, list(task.metrics)) == ("image_folder", [ACCURACY])
    inputs, targets = next(iter(task.batches("validation", 12)))
    assert inputs.shape == (12, 3, 8, 8)
    assert targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert float(task.loss(torch.eye(3)[targets] * 100, targets)) == 0
    with pytest.raises(TaskError, match="has no test_data"):
        next(iter(task.batches("test", 2)))


def test_only_images_to_train_on_are_shuffled_and_cut_out_at_random(tmp_path: Path) -> None:
    task = image_folder(three_classes, write_images(tmp_path / "all"), options=SMALL)
    train, again, other = (next(iter(task.batches("train", 18, seed))) for seed in (0, 0, 1))
    plain, plainly = (next(iter(task.batches("plain", 18, seed))) for seed in (0, 1))
    assert torch.equal(train[0], again[0])
    assert not torch.equal(train[0], other[0])
    assert torch.equal(plain[0], plainly[0])
    assert train[1].tolist() != sorted(train[1].tolist())
    assert plain[1].tolist() == sorted(plain[1].tolist())


def test_from_ten_classes_on_the_best_five_count_too(tmp_path: Path) -> None:
    data = write_images(tmp_path / "many", [f"class {n:02}" for n in range(10)], 5)
    assert list(image_folder(network(10), data, options=SMALL).metrics) == [ACCURACY, TOP_5]


def test_one_mean_is_that_of_grey_images(tmp_path: Path) -> None:
    data = write_images(tmp_path / "all")
    task = image_folder(network(3, channels=1), data, options={**SMALL, "mean": [0.5], "std": [0.5]})
    assert next(iter(task.batches("plain", 2)))[0].shape == (2, 1, 8, 8)


def test_the_model_is_one_of_the_users_own_where_it_is_named_so(tmp_path: Path) -> None:
    data = write_images(tmp_path / "all")
    task = build_task("image_folder", f"{__name__}:three_classes", data, options=SMALL)
    assert task.model_name == f"{__name__}:three_classes"  # type: ignore[attr-defined]


def broken() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(7, 3))


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        (None, {}, "task 'image_folder' needs --model: timm:NAME, torchvision:NAME, hf:FOLDER"),
        ("resnet20", {}, r"resnet20 gives \[1, 10\] for one image, but the data have 3 classes; expected \[1, 3\]"),
        (
            broken,
            {},
            r"broken cannot be run on images \[1, 3, 224, 224\] \(RuntimeError: .*\); task.options.image_size",
        ),
        (three_classes, {"mean": [0.5]}, "mean has 1 channels and std 3"),
        (three_classes, {"image_size": 0}, r"^task.options.image_size: should be at least 1 but is 0$"),
        (three_classes, {"imagesize": 8}, r"^task.options.imagesize: unknown key; did you mean 'image_size'\?$"),
        (three_classes, {"scale": "all"}, r"^task.options.scale: should be a number but is 'all'$"),
    ],
)
def test_what_does_not_suit_the_images_is_said_in_one_line(
    model: str | Callable[[], nn.Module] | None, options: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises((TaskError, ConfigError), match=said) as raised:
        image_folder(model, write_images(tmp_path / "all"), options=options)
    assert "\n" not in str(raised.value)


def test_images_have_to_be_named() -> None:
    with pytest.raises(TaskError, match="task 'image_folder' needs --data DIR"):
        image_folder(three_classes)


@pytest.mark.parametrize("name", ["digits", f"{__name__}:SMALL"])
def test_options_of_a_task_that_has_none_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"task.options \(image_size\)"):
        build_task(name, options=SMALL)
