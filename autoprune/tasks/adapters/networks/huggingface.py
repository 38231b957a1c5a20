"""Networks in folders that `save_pretrained` wrote: configuration, weights, tokenizer. Nothing is fetched, no code "
"run.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from autoprune.errors import CheckpointError, TaskError
from autoprune.tasks.adapters.extras import import_extra
from autoprune.tasks.adapters.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from autoprune.tasks.adapters.options import one_line
from autoprune.tasks.models.named import NamedModel
from autoprune.tasks.weights import fill, load_weights

log = logging.getLogger(__name__)

_OURS = {"local_files_only": True, "trust_remote_code": False}
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_CONFIG, _IMAGES = "config.json", "preprocessor_config.json"
_SAVE_TOKENIZER = "save it there: tokenizer.save_pretrained(FOLDER)"


def hf_model(folder: str, classes: int | None = None, image_size: int | None = None) -> NamedModel:
    """A network of transformers in a folder that `save_pretrained` wrote; weights are its own, or of --checkpoint.

    Args:
        folder: with `config.json`, which names the class.
        classes: that the data have; None where that is not known.
        image_size: not used: the configuration says it.

    Raises:
        UserError: transformers is not installed, it is no such folder, or its network is for other classes.
    """
    return HfFolder.open(Path(folder)).model(classes)


@dataclass(frozen=True)
class HfFolder:
    """A folder that `save_pretrained` wrote.

    Attributes:
        config: the configuration, of transformers' class.
        network_class: the class of the network, one of transformers' own.
    """

    path: Path
    config: Any
    network_class: Any

    @classmethod
    def open(cls, path: Path) -> HfFolder:
        """Reads the configuration of a folder.

        Raises:
            UserError: transformers is not installed, or it is no such folder.
        """
        if not (path / _CONFIG).is_file():
            why = f"it has no {_CONFIG}" if path.is_dir() else "there is no such folder"
            raise TaskError(
                f"hf:{path} should be a folder that save_pretrained wrote, but {why}; nothing is downloaded"
            )
        transformers = import_extra("transformers", "transformers")
        try:
            with _without_messages(transformers):
                config = transformers.AutoConfig.from_pretrained(path, **_OURS)
        except Exception as fault:  # transformers raises many kinds
            raise TaskError(
                f"{path / _CONFIG} is no configuration that transformers knows ({one_line(fault)})"
            ) from fault
        name = next(iter(config.architectures or ()), None)
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            said = "names no class of a network (architectures)" if name is None else f"names {name!r}, no network of"
            raise TaskError(
                f"{path / _CONFIG} {said}{'' if name is None else f' transformers {transformers.__version__}'}; "
                "expected one that save_pretrained wrote. Code of the folder's own is never run"
            )
        return cls(path, config, found)

    def model(self, classes: int | None = None) -> NamedModel:
        """Returns its network.

        Args:
            classes: that the data have; None where that is not known.

        Raises:
            TaskError: it is a network for another number of classes.
        """
        own = self.config.num_labels
        if classes is not None and own != classes:
            raise TaskError(
                f"{self.path} is of a network for {own} classes, but the data have {classes}; fine-tune it on these "
                "first, or give the data that it is for"
            )
        return NamedModel(f"hf:{self.path}", self._build, self.load)

    def _build(self) -> nn.Module:
        try:
            network: nn.Module = self.network_class(copy.deepcopy(self.config))
        except Exception as fault:  # a configuration may be at odds with itself
            raise TaskError(
                f"{self.network_class.__name__} cannot be built from {self.path} ({one_line(fault)})"
            ) from fault
        return network

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        """Loads a checkpoint, or else the folder's own weights, into its network.

        Raises:
            CheckpointError: there are no weights, or they do not fit.
        """
        if checkpoint is not None:
            load_weights(network, checkpoint)
            return
        if not any(True for pattern in _WEIGHTS for _ in self.path.glob(pattern)):
            raise CheckpointError(
                f"{self.path} has a configuration but no weights (model.safetensors); give --checkpoint FILE, or a "
                "folder that save_pretrained wrote"
            )
        transformers = import_extra("transformers", "transformers")
        try:
            with _without_messages(transformers):
                loaded, report = self.network_class.from_pretrained(
                    self.path, config=copy.deepcopy(self.config), dtype="float32", output_loading_info=True, **_OURS
                )
        except Exception as fault:  # damaged files, other shapes: transformers raises many kinds
            raise CheckpointError(f"the weights in {self.path} cannot be loaded ({one_line(fault)})") from fault
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(
                f"{self.path} lacks weights of its {self.network_class.__name__}: {', '.join(missing[:5])}; expected "
                "those of the class that its configuration names"
            )
        fill(network, loaded.state_dict(), f"the weights in {self.path}")

    def tokenizer(self) -> Any:
        """Returns its tokenizer.

        Raises:
            TaskError: there is none in the folder, or it cannot be read.
        """
        transformers = import_extra("transformers", "transformers")
        try:
            with _without_messages(transformers):
                found = transformers.AutoTokenizer.from_pretrained(self.path, **_OURS)
        except Exception as fault:  # transformers raises many kinds
            raise TaskError(
                f"{self.path} has no tokenizer that can be read ({one_line(fault)}); {_SAVE_TOKENIZER}"
            ) from fault
        if len(found) <= len(found.added_tokens_decoder):  # where files are missing it makes one that knows no words
            raise TaskError(f"{self.path} has no tokenizer; {_SAVE_TOKENIZER}")
        return found

    def check_kind(self, mapping: str, task: str, expected: str) -> None:
        """Checks that its network is of a kind.

        Args:
            mapping: of model types to the classes of the kind, in `transformers.models.auto.modeling_auto`.
            task: that needs such a network.
            expected: the class of transformers' that loads such networks.

        Raises:
            TaskError: it is not.
        """
        kinds = getattr(import_extra("transformers.models.auto.modeling_auto", "transformers"), mapping)
        names = {name for each in kinds.values() for name in ([each] if isinstance(each, str) else each)}
        if self.network_class.__name__ not in names:
            raise TaskError(
                f"{self.path} holds a {self.network_class.__name__}, but task {task!r} takes what {expected} loads; "
                "save one of these"
            )


def class_order(network: nn.Module, names: Sequence[str]) -> list[int]:
    """Returns the index of each class in a network's outputs: as its configuration calls them, else in their order.

    Args:
        network: perhaps with transformers' configuration.
        names: of the classes in the data, in their order there.
    """
    known = getattr(getattr(network, "config", None), "id2label", None)
    labels = {str(label): int(index) for index, label in known.items()} if isinstance(known, Mapping) else {}
    if set(labels) == set(names):
        return [labels[name] for name in names]
    if labels and not all(label == f"LABEL_{index}" for label, index in labels.items()):
        log.warning(
            "the network's classes are called %s, those of the data %s: they are matched in order",
            ", ".join(sorted(labels, key=labels.__getitem__)), ", ".join(names),
        )  # fmt: skip
    return list(range(len(names)))


def hf_preprocessing(folder: Path) -> Preprocessing:
    """Returns how the images of a folder's network are preprocessed, as the folder says; else as for ImageNet.

    Raises:
        TaskError: the file that says so cannot be read.
    """
    path = folder / _IMAGES
    if not path.is_file():
        return Preprocessing()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        resized = _sides(said.get("size", 224))
        size = _sides(said["crop_size"]) if said.get("do_center_crop") and "crop_size" in said else resized
        return Preprocessing(
            size=size,
            resized=resized,
            squash="height" in said["size"] if isinstance(said.get("size"), dict) else False,
            interpolation=Image.Resampling(said.get("resample", 2)).name.lower(),
            mean=tuple(said.get("image_mean", IMAGENET_MEAN)),
            std=tuple(said.get("image_std", IMAGENET_STD)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise TaskError(f"{path} does not say how images are preprocessed ({one_line(fault)})") from fault


def _sides(size: Any) -> tuple[int, int]:
    """Returns rows and columns of a size as image processors write it."""
    if isinstance(size, int):
        return size, size
    return (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2


@contextlib.contextmanager
def _without_messages(transformers: Any) -> Iterator[None]:
    """Keeps transformers from warning and showing progress."""
    logs = transformers.utils.logging
    verbosity, shows = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(verbosity)
        if shows:
            logs.enable_progress_bar()
