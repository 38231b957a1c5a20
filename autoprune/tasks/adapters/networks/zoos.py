"""The networks of timm and torchvision by name. Weights are never fetched: they come from a checkpoint."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from autoprune.errors import CheckpointError, TaskError, did_you_mean
from autoprune.tasks.adapters.extras import import_extra
from autoprune.tasks.adapters.images.preprocessing import Preprocessing
from autoprune.tasks.models.named import NamedModel
from autoprune.tasks.weights import load_weights, read_state_dict


def timm_model(name: str, classes: int | None = None, image_size: int | None = None) -> NamedModel:
    """Any network of timm, by its name there: `timm.list_models()`.

    Args:
        name: perhaps with the tag of pretrained weights, which says how images are preprocessed.
        classes: of the last layer; None: as many as timm makes.
        image_size: that its images have, for networks that have to know; None: timm's.

    Raises:
        UserError: timm is not installed, or has no such network.
    """
    timm = import_extra("timm", "timm")
    if not timm.is_model(name):
        raise TaskError(
            f"timm has no network {name!r}{did_you_mean(name, timm.list_models())}; timm.list_models() lists them"
        )
    create = partial(timm.create_model, name, pretrained=False)
    return _from_zoo(f"timm:{name}", create, {"num_classes": classes}, {"img_size": image_size})


def timm_preprocessing(network: nn.Module) -> Preprocessing:
    """Returns how the images of a network of timm's are preprocessed."""
    config = import_extra("timm.data", "timm").resolve_model_data_config(network)
    rows, columns = config["input_size"][1:]
    return Preprocessing(
        size=(rows, columns),
        resized=(math.floor(rows / config["crop_pct"]), math.floor(columns / config["crop_pct"])),
        squash=config["crop_mode"] != "center",
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def torchvision_model(name: str, classes: int | None = None, image_size: int | None = None) -> NamedModel:
    """Any network of torchvision, by its name there: `torchvision.models.list_models()`.

    Args:
        name: of the network.
        classes: of the last layer; None: as many as torchvision makes.
        image_size: that its images have, for networks that have to know; None: torchvision's.

    Raises:
        UserError: torchvision is not installed, or has no such network.
    """
    models = import_extra("torchvision", "torchvision").models
    if name not in models.list_models():
        near = did_you_mean(name, models.list_models())
        raise TaskError(f"torchvision has no network {name!r}{near}; torchvision.models.list_models() lists them")
    create = partial(models.get_model, name, weights=None)
    taken = inspect.signature(models.get_model_builder(name)).parameters
    options = {"weights_backbone": None} if "weights_backbone" in taken else {}
    return _from_zoo(
        f"torchvision:{name}", partial(create, **options), {"num_classes": classes}, {"image_size": image_size}
    )


def torchvision_preprocessing(name: str) -> Preprocessing:
    """Returns how images were preprocessed for the newest weights that torchvision has of a network for ImageNet."""
    models = import_extra("torchvision", "torchvision").models
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    (size,), (resized,) = transforms.crop_size, transforms.resize_size
    return Preprocessing(
        size=(size, size),
        resized=(resized, resized),
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _from_zoo(
    name: str, create: Callable[..., nn.Module], classes: dict[str, int | None], size: dict[str, int | None]
) -> NamedModel:
    """Returns the model of a zoo's function.

    Args:
        name: with its prefix.
        create: builds the network.
        classes: the keyword by which it is told how many; None leaves it out.
        size: likewise of the images; where the network knows no such keyword, it takes any size.
    """
    (count,), told = classes.values(), {key: value for key, value in classes.items() if value is not None}

    def build() -> nn.Module:
        for given in (size, {}):
            try:
                if None not in given.values():
                    return create(**told, **given)
            except TypeError as fault:
                if not any(key in str(fault) for key in given):
                    raise TaskError(f"{name} cannot be built: {' '.join(str(fault).split())}") from fault
            except (RuntimeError, ValueError, AssertionError) as fault:  # a tag or a size that it does not have
                raise TaskError(f"{name} cannot be built: {' '.join(str(fault).split())}") from fault
        raise AssertionError("without a size it is built, or refused")

    return NamedModel(name, build, partial(_load, name, count))


def _load(name: str, classes: int | None, network: nn.Module, checkpoint: Path | None) -> None:
    """Loads a checkpoint into a zoo's network.

    Args:
        name: with its prefix.
        classes: that the data have; None where that is not known.
        network: is filled in place.
        checkpoint: a file; None is refused, since random weights are nothing to prune.

    Raises:
        CheckpointError: there is none, it cannot be read or does not fit.
    """
    if checkpoint is None:
        raise CheckpointError(
            f"{name} has random weights, as nothing is downloaded: give --checkpoint FILE with trained ones "
            "(autoprune train --scratch begins with random ones)"
        )
    try:
        load_weights(network, checkpoint)
    except CheckpointError as fault:
        found = _classes_of(network, checkpoint, classes)
        if found is None:
            raise
        raise CheckpointError(
            f"checkpoint {checkpoint} is of a network for {found} classes, but the data have {classes}; give one that "
            "was trained on these classes, or data of those"
        ) from fault


def _classes_of(network: nn.Module, checkpoint: Path, classes: int | None) -> int | None:
    """Returns how many classes a checkpoint is for where that is all by which it does not fit; else None.

    Args:
        network: that it was to be loaded into.
        checkpoint: its file.
        classes: of the network.
    """
    own, given = network.state_dict(), read_state_dict(checkpoint)
    pairs = [(own[name].shape, given[name].shape) for name in own if name in given]
    differing = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    counts = {theirs[:1] for _, theirs in differing}
    alike = all(ours[:1] == (classes,) and ours[1:] == theirs[1:] for ours, theirs in differing)
    return counts.pop()[0] if len(counts) == 1 and alike else None
