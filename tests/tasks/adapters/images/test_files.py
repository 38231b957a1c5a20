from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoprune.errors import DataError
from autoprune.tasks.adapters.images.files import find_images, read_image
from tests.tasks.adapters.images.folders import write_images


def test_parts_and_classes_are_those_of_the_folders(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 2), ("test", 1)):
        write_images(tmp_path / part, ["cat", "ant"], count)
    (tmp_path / "README.txt").write_text("beside the parts")
    (tmp_path / "train" / "cat" / ".DS_Store").write_text("hidden")
    (tmp_path / "train" / "cat" / "Thumbs.db").write_text("the system's")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    found = find_images(tmp_path)
    assert found.classes == ("ant", "cat")
    assert {split: len(files) for split, files in found.parts.items()} == {"train": 8, "validation": 4, "test": 2}
    assert found.parts["validation"][0] == (tmp_path / "val" / "ant" / "0.png", 0)
    assert found.parts["validation"][-1] == (tmp_path / "val" / "cat" / "1.png", 1)


def test_images_may_lie_in_folders_below_that_of_their_class(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat", "ant"])
    (tmp_path / "cat" / "0.png").rename(
        (tmp_path / "cat" / "indoors").mkdir() or tmp_path / "cat" / "indoors" / "0.png"
    )
    assert sum(len(files) for files in find_images(tmp_path).parts.values()) == 20


def test_a_folder_of_classes_alone_is_divided_by_a_draw(tmp_path: Path) -> None:
    found = find_images(write_images(tmp_path / "all"))
    assert {split: len(files) for split, files in found.parts.items()} == {"train": 18, "validation": 6, "test": 6}
    assert found == find_images(tmp_path / "all")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert find_images(write_images(tmp_path, ["train", "bus"])).classes == ("bus", "train")


def _broken_folder(root: Path) -> Path:
    for part in ("train", "val"):
        write_images(root / part, ["ant", "cat", "dog"], 2)
    return root


def _write(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_each_fault_of_a_folder_has_a_line_that_names_the_file(tmp_path: Path) -> None:
    root = _broken_folder(tmp_path)
    for image in (root / "val" / "dog").iterdir():
        image.unlink()
    (root / "val" / "bird").mkdir()
    for name in ("0.png", "1.png"):
        (root / "val" / "cat" / name).unlink()
    (root / "val" / "cat").rmdir()
    _write(root / "train" / "ant" / "notes.txt", b"no image")
    _write(root / "train" / "ant" / "empty.jpg")
    damaged = root / "train" / "cat" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(DataError) as raised:
        find_images(root)
    assert str(raised.value).splitlines() == [
        f"{root}/val/bird is a class that {root}/train does not have",
        f"{root}/val/cat is missing, a class that {root}/train has",
        f"{root}/val/dog holds no images",
        f"{root}/train/ant/empty.jpg is an empty file; remove it from the folder of its class",
        f"{root}/train/ant/notes.txt is no image; remove it from the folder of its class",
        str(raised.value).splitlines()[-1],
    ]
    assert f"{damaged} is a broken image (" in str(raised.value).splitlines()[-1]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "should have a folder of images for each class, but has none"),
        (["a.png", "b.png"], "should have a folder of images for each class, but has none"),
        (["train/a.png", "val/b.png"], "train should have a folder of images for each class, but has none"),
        (["cat/a.png"], "should have a folder of images for each class, but has only one, 'cat'"),
        (["val/cat/a.png", "val/dog/a.png"], "has val but no train"),
    ],
)
def test_a_folder_that_holds_no_classes_is_refused(files: list[str], said: str, tmp_path: Path) -> None:
    for name in files:
        _write(tmp_path / name)
    with pytest.raises(DataError, match=said) as raised:
        find_images(tmp_path)
    assert "\n" not in str(raised.value)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder; expected one with a folder of images for each class"):
        find_images(_write(tmp_path / "images.zip"))


def test_an_image_that_ends_early_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "0.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"0.jpg is a broken image \(image file is truncated .*; replace or remove it$"):
        read_image(path, "RGB")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_images_of_any_kind_are_read_in_colours(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path, "RGB")
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (3, 2), (255, 255, 255))


def test_images_of_16_bits_are_not_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16)).save(path)
    assert np.asarray(read_image(path, "L")).tolist() == [[0, 1, 128, 255]]
