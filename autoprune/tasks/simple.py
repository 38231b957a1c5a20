"""The user's own networks and data as a task, and the task that a name stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.graph.inputs import call_network
from autoprune.graph.networks import unwrap
from autoprune.plugins import call
from autoprune.registry import TASKS, is_own, resolve
from autoprune.tasks.base import Batch, Hook, Split, Task
from autoprune.tasks.metrics import ACCURACY, Metric, as_metrics, classification_metrics
from autoprune.tasks.models.named import NamedModel, named_model, qualified_name
from autoprune.tasks.training.computing import gradients_on
from autoprune.tasks.training.loop import train
from autoprune.tasks.weights import load_weights

__all__ = ["SimpleTask", "build_task", "model_name", "with_model"]

Data = Dataset[Any] | Iterable[Batch]
_MEMBERS = ("name", "network", "load", "batches", "loss", "metrics", "train")


@dataclass(frozen=True)
class SimpleTask:
    """A task out of a network and data: each a torch Dataset, or batches of `(inputs, targets)` such as a DataLoader.

    Inputs may be whatever the network takes: a tuple is positional arguments, a mapping keyword arguments.

    Datasets are batched as asked, `train_data` shuffled; a DataLoader keeps its own batch size and order. Random
    transforms that draw from torch in this process give the same samples for the same seed.

    Attributes:
        network: builds the dense network; weights that it brings count as trained where no checkpoint is given.
        train_data: training samples, augmented as in training.
        validation_data: what may choose between candidates.
        test_data: what is only reported.
        plain_data: the training samples without augmentation.
        loss: `(outputs, targets)` to the mean loss of a batch.
        metrics: what else is measured: a `Metric`, a function of outputs and targets, an object with `update` and
            `compute` (of torchmetrics, say), several of these, or a mapping of names to them. None is top-1 accuracy,
            and top-5 from ten classes on; `[]` goes by the loss alone.
        training: `(network, task, plan, hooks)`: trains the network in place, see `Task.train`; a loop of your own
            calls the hooks.
    """

    network: Callable[[], nn.Module]
    train_data: Data
    validation_data: Data
    test_data: Data | None = None
    plain_data: Data | None = None
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    metrics: Any = None
    name: str = "user"
    training: Callable[[nn.Module, Task, TrainingPlan, Sequence[Hook]], None] = train

    def __post_init__(self) -> None:
        if isinstance(self.network, nn.Module):
            raise TaskError(
                "SimpleTask: `network` should build a network anew at each call, but is one; pass a function"
            )
        if self.metrics is None:
            object.__setattr__(self, "metrics", _ClassificationMetrics(self.network, self.batches))
        else:
            object.__setattr__(self, "metrics", as_metrics(self.metrics))
        for field in fields(self):
            if field.name.endswith("_data"):
                _check_data(field.name, getattr(self, field.name))

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        """Loads a checkpoint; without one the network keeps the weights that it was built with."""
        if checkpoint is not None:
            load_weights(network, checkpoint)

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        """Returns the batches of one of the data; see `Task.batches`.

        Args:
            split: `train` reads `train_data`, and so on.
            batch_size: samples in a batch of a Dataset; other data keep their own.
            seed: of order and random transforms.

        Raises:
            TaskError: those data were not given.
        """
        field = f"{split}_data"
        data: Data | None = getattr(self, field)
        if data is None:
            raise TaskError(
                f"task {self.name!r} has no {field}, which is needed here; give SimpleTask(..., {field}=...)"
            )
        return UserBatches(data, field, batch_size, seed, shuffle=split == "train")

    def train(self, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        """Trains the network in place by `training`; see `autoprune.tasks.training.loop.train`.

        Args:
            network: on any device.
            plan: how long, at which rate and on batches of which size.
            hooks: called in their order at every event.
        """
        with gradients_on(network):
            self.training(network, self, plan, hooks)


class _ClassificationMetrics(Sequence[Metric]):
    """Top-1 accuracy, and top-5 from ten classes on: how many there are is asked of the network when it is needed."""

    def __init__(self, network: Callable[[], nn.Module], batches: Callable[[Split, int], Iterable[Batch]]) -> None:
        self._network, self._batches = network, batches

    @cached_property
    def _found(self) -> tuple[Metric, ...]:
        inputs, targets = next(iter(self._batches("validation", 2)), (None, None))
        if inputs is None:
            return (ACCURACY,)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return classification_metrics(call_network(unwrap(self._network()).eval(), inputs), targets)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        return self._found[index]


def _check_data(field: str, data: object) -> None:
    if data is None or isinstance(data, Dataset):
        return
    if isinstance(data, Iterator):
        raise TaskError(
            f"SimpleTask: {field} is a {type(data).__name__}, which can be gone through only once; "
            "give a Dataset, a DataLoader or a list of batches"
        )
    if not isinstance(data, Iterable):
        raise TaskError(
            f"SimpleTask: {field} should be a Dataset or an iterable of batches but is a {type(data).__name__}"
        )


@dataclass(frozen=True)
class UserBatches:
    """The user's batches, anew from the start at each iteration, the same for the same seed.

    While a batch is made torch's global generator is seeded; between batches it is the caller's.
    """

    data: Data
    field: str
    batch_size: int
    seed: int
    shuffle: bool

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed)
        source = self._loader(generator) if isinstance(self.data, Dataset) else self.data
        for batch in _with_own_randomness(source, generator.get_state()):
            yield _checked(batch, self.field)

    def _loader(self, generator: torch.Generator) -> Iterable[Any]:
        shuffle = self.shuffle and not isinstance(self.data, IterableDataset)
        data = cast("Dataset[Any]", self.data)
        return DataLoader(data, self.batch_size, shuffle=shuffle, generator=generator, collate_fn=_collate)


def _collate(samples: list[Any]) -> Any:
    """Batches samples as torch does, but inputs that are a tuple, positional arguments, do not become a list."""
    batch, inputs = default_collate(samples), samples[0][0]
    if isinstance(inputs, tuple) and isinstance(batch, list) and isinstance(batch[0], list):
        batch[0] = tuple(batch[0])
    return batch


def _with_own_randomness(source: Iterable[Any], state: Tensor) -> Iterator[Any]:
    """Yields the items of `source`, which draws from a global generator of its own that starts at `state`."""
    iterator: Iterator[Any] | None = None
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(state)
            iterator = iter(source) if iterator is None else iterator
            try:
                item = next(iterator)
            except StopIteration:
                return
            state = torch.get_rng_state()
        yield item


def _checked(batch: Any, field: str) -> Batch:
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[0], batch[1]
    kinds = (
        ", ".join(type(part).__name__ for part in batch) if isinstance(batch, (tuple, list)) else type(batch).__name__
    )
    raise TaskError(f"{field} should give batches (inputs, targets), the targets a tensor, but gave ({kinds})")


def with_model(task: Task, model: NamedModel) -> Task:
    """Returns a task with another network; the rest is the task's."""
    members = {member: getattr(task, member) for member in _MEMBERS}
    return cast(Task, SimpleNamespace(**members | {"network": model.build, "model_name": model.name}))


def build_task(name: str, model: str | None = None, data: Path | None = None, progress: Hook | None = None) -> Task:
    """Returns the task of a registry name or of `package.module:attribute`, a task or a callable that returns one.

    Args:
        model: replaces the task's network: a registry name, or `package.module:callable`.
        data: the folder of a built-in task's data.
        progress: called while a built-in task trains its network on first use.

    Raises:
        UnknownName: no such task or model.
        PluginError: it cannot be imported, or fails when it is called.
        TaskError: it is no task, or the model does not fit it.
        DataError: a built-in task's data are missing or damaged.
    """
    if not is_own("task", name):
        return cast(Task, resolve("task", name)(model=model, data=data, progress=progress))
    if data is not None:
        raise TaskError(f"task {name!r} brings its own data; --data is for {', '.join(TASKS)} only, leave it out")
    task = as_task(resolve("task", name), name)
    return task if model is None else with_model(task, named_model(model))


def as_task(found: Any, text: str) -> Task:
    """Returns a task, or the one that a function makes; `text` is what it is called in messages.

    Raises:
        TaskError: it is neither.
    """
    is_task = not isinstance(found, type) and all(hasattr(found, member) for member in _MEMBERS)
    built = found if is_task or not callable(found) else call(found, text)
    missing = [member for member in _MEMBERS if not hasattr(built, member)]
    if missing:
        raise TaskError(
            f"{text!r} should be a task or return one, but the {type(built).__name__} lacks {', '.join(missing)}; "
            "autoprune.SimpleTask makes one out of a network and data"
        )
    return cast(Task, built)


def model_name(task: Task, network: nn.Module) -> str:
    """Returns the dense network's name in checkpoints: the task's `model_name`, or its class's qualified name."""
    named = getattr(task, "model_name", None)
    return named if isinstance(named, str) else qualified_name(network)
