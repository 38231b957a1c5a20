"""Images in folders of their classes as a task, for any network that classifies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from autoprune.core.fields import Above0, Checked, Positive, UpToOne
from autoprune.errors import TaskError
from autoprune.registry import library_of
from autoprune.tasks.adapters.images.files import LabelledFile, find_images, read_image
from autoprune.tasks.adapters.images.preprocessing import Preprocessing
from autoprune.tasks.adapters.networks.huggingface import class_order, hf_preprocessing
from autoprune.tasks.adapters.networks.zoos import timm_preprocessing, torchvision_preprocessing
from autoprune.tasks.adapters.options import one_line, read_options
from autoprune.tasks.base import Hook, Split, Task
from autoprune.tasks.metrics import ACCURACY, TOP_5
from autoprune.tasks.models.named import ModelChoice, named_model
from autoprune.tasks.outputs import logits_of
from autoprune.tasks.simple import SimpleTask, with_model

NAME = "image_folder"


@dataclass(frozen=True)
class ImageOptions(Checked):
    """What can be said of the images; None leaves it to the network's library.

    Attributes:
        image_size: rows and columns of the network's input.
        mean: of each channel, of values in [0, 1]; one number for grey images.
        std: of each channel.
        scale: the least share of an image that is taken to train on; 1 takes all of it.
        flip: whether half of the images to train on are mirrored.
    """

    image_size: Positive | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Above0, ...] | None = None
    scale: UpToOne = 0.35
    flip: bool = True

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """Returns a network's own preprocessing with what is said otherwise.

        Raises:
            TaskError: means and deviations are not of as many channels, or not of one or three.
        """
        said = {name: value for name in ("mean", "std") if (value := getattr(self, name)) is not None}
        found = replace(own if self.image_size is None else own.of_size(self.image_size), **said)
        if len(found.mean) != len(found.std) or len(found.mean) not in (1, 3):
            raise TaskError(
                f"task.options: mean has {len(found.mean)} channels and std {len(found.std)}; expected 3 of both for "
                "images in colours or 1 for grey ones"
            )
        return found


def image_folder(
    model: ModelChoice | None = None,
    data: Path | None = None,
    progress: Hook | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """A folder with a folder of images for each class: --data DIR, --model timm:NAME or another that classifies images.

    Args:
        model: a name (`timm:resnet18`), or a function that builds a network for as many classes.
        data: the folder; see `find_images`.
        progress: not used: nothing is trained on first use.
        options: see `ImageOptions`.

    Raises:
        UserError: folder, model or options are missing or at fault.
    """
    if data is None:
        raise TaskError(f"task {NAME!r} needs --data DIR, a folder with a folder of images for each class")
    if model is None:
        raise TaskError(
            f"task {NAME!r} needs --model: timm:NAME, torchvision:NAME, hf:FOLDER or package.module:callable"
        )
    said = read_options(ImageOptions, options)
    found = find_images(data)
    chosen = named_model(model, classes=len(found.classes), image_size=said.image_size)
    network = chosen.build()
    preprocessing = said.preprocessing(_own_preprocessing(chosen.name, network))
    _check_outputs(network, chosen.name, preprocessing, len(found.classes))
    order = class_order(network, found.classes)
    parts = {split: [(path, order[label]) for path, label in files] for split, files in found.parts.items()}

    def images(split: Split) -> Images | None:
        return Images(parts[split], preprocessing.apply, preprocessing.mode) if split in parts else None

    def part_of_image(image: Image.Image) -> Tensor:
        return preprocessing.apply_randomly(image, said.scale, said.flip)

    validation = images("validation")
    assert validation is not None, "drawn where it is missing"
    task = SimpleTask(
        chosen.build,
        train_data=Images(parts["train"], part_of_image, preprocessing.mode),
        validation_data=validation,
        test_data=images("test"),
        plain_data=images("train"),
        metrics=[ACCURACY, TOP_5] if len(found.classes) >= 10 else [ACCURACY],
        name=NAME,
    )
    return with_model(task, chosen)


class Images(Dataset[tuple[Tensor, int]]):
    """Images of files, read when they are asked for.

    Args:
        files: with their classes.
        transform: makes an input `[channels, rows, columns]` of an image.
        mode: in colours or grey.

    Attributes:
        targets: the classes, in order.
    """

    def __init__(
        self, files: Sequence[LabelledFile], transform: Callable[[Image.Image], Tensor], mode: Literal["RGB", "L"]
    ) -> None:
        self._files, self._transform, self._mode = files, transform, mode
        self.targets = [label for _, label in files]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._files[index]
        return self._transform(read_image(path, self._mode)), label


def _own_preprocessing(name: str, network: nn.Module) -> Preprocessing:
    """Returns the preprocessing that a network's library says, by the name it was chosen by; else ImageNet's."""
    library, _, own = name.partition(":")
    if library_of(name) is None:
        return Preprocessing()
    if library == "timm":
        return timm_preprocessing(network)
    return torchvision_preprocessing(own) if library == "torchvision" else hf_preprocessing(Path(own))


def _check_outputs(network: nn.Module, name: str, preprocessing: Preprocessing, classes: int) -> None:
    """Checks on an input of zeros that a network classifies such images.

    Args:
        network: with any weights.
        name: what it is called.
        preprocessing: says how large inputs are.
        classes: that the data have.

    Raises:
        TaskError: it cannot be run on them, or gives something else than a number for each class.
    """
    size = [1, len(preprocessing.mean), *preprocessing.size]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = logits_of(network.eval()(torch.zeros(size)))
    except Exception as fault:  # whatever the network raises
        raise TaskError(
            f"{name} cannot be run on images {size} ({one_line(fault)}); task.options.image_size, mean and std say how "
            "large they are and of how many channels"
        ) from fault
    if outputs.shape != (1, classes):
        raise TaskError(
            f"{name} gives {list(outputs.shape)} for one image, but the data have {classes} classes; "
            f"expected [1, {classes}]"
        )
