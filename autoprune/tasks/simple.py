"""The user's own networks and data as a task, and the task that a name stands for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.graph.inputs import call_network
from autoprune.graph.networks import unwrap
from autoprune.plugins import call
from autoprune.registry import TASKS, is_own, resolve
from autoprune.tasks.base import Batch, Hook, Split, Task
from autoprune.tasks.loading.splitting import Splitter
from autoprune.tasks.loading.user_batches import Data, is_dataset, user_batches
from autoprune.tasks.metrics import ACCURACY, Metric, as_metrics, classification_metrics
from autoprune.tasks.models.named import NamedModel, named_model, qualified_name
from autoprune.tasks.outputs import default_loss
from autoprune.tasks.training.computing import gradients_on
from autoprune.tasks.training.loop import train
from autoprune.tasks.weights import load_weights

__all__ = ["SimpleTask", "build_task", "model_name", "with_model"]

_MEMBERS = ("name", "network", "load", "batches", "loss", "metrics", "train")


@dataclass(frozen=True)
class SimpleTask:
    """A task out of a network and data: each a torch Dataset, a DataLoader, or batches of any other kind.

    A batch is `(x, y)`, a longer tuple, a mapping, a dataclass or a named tuple; what of it are inputs and what targets
    follows from the network's forward (see `autoprune.tasks.loading.splitting`), or is said by `inputs` and `targets`.
    Inputs may be whatever the network takes: a tuple is positional arguments, a mapping keyword arguments.

    Datasets are batched as asked, `train_data` shuffled; a DataLoader keeps its own batch size and order. Random
    transforms give the same samples for the same seed, whatever generator they draw from.

    Attributes:
        network: builds the dense network; weights that it brings count as trained where no checkpoint is given.
        train_data: training samples, augmented as in training.
        validation_data: what may choose between candidates.
        test_data: what is only reported.
        plain_data: the training samples without augmentation.
        loss: `(outputs, targets)` to the mean loss of a batch; by default the outputs' own or a cross-entropy.
        metrics: what else is measured: a `Metric`, a function of outputs and targets, an object with `update` and
            `compute` (of torchmetrics, say), several of these, or a mapping of names to them. None is top-1 accuracy,
            and top-5 from ten classes on; `[]` goes by the loss alone.
        training: `(network, task, plan, hooks)`: trains the network in place, see `Task.train`; a loop of your own
            calls the hooks.
        inputs: of a batch as the data yield it, what the network is called with; None: by default.
        targets: of a batch, its targets, which may be None where loss and metric need none; None: by default.
        samples: of a batch, how many samples it holds; None: as its tensors say.
        axis: of the samples in the inputs' tensors; None: the first, or the second where only that is as long as the
            targets.
    """

    network: Callable[[], nn.Module]
    train_data: Data
    validation_data: Data
    test_data: Data | None = None
    plain_data: Data | None = None
    loss: Callable[[Any, Any], Tensor] = default_loss
    metrics: Any = None
    name: str = "user"
    training: Callable[[nn.Module, Task, TrainingPlan, Sequence[Hook]], None] = train
    inputs: Callable[[Any], Any] | None = None
    targets: Callable[[Any], Any] | None = None
    samples: Callable[[Any], int] | None = None
    axis: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.network, nn.Module):
            raise TaskError(
                "SimpleTask: `network` should build a network anew at each call, but is one; pass a function"
            )
        if self.metrics is None or isinstance(self.metrics, _ClassificationMetrics):  # of a task that was replaced
            object.__setattr__(self, "metrics", _ClassificationMetrics(self.network, self.batches))
        else:
            object.__setattr__(self, "metrics", as_metrics(self.metrics))
        for each in fields(self):
            if each.name.endswith("_data"):
                _check_data(each.name, getattr(self, each.name))

    @cached_property
    def _splitter(self) -> Splitter:
        return Splitter(self.network, self.inputs, self.targets, self.samples, self.axis)

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
        name = f"{split}_data"
        data: Data | None = getattr(self, name)
        if data is None:
            raise TaskError(f"task {self.name!r} has no {name}, which is needed here; give SimpleTask(..., {name}=...)")
        return user_batches(data, name, batch_size, seed, split == "train", self._splitter)

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
        if targets is None:
            return ()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return classification_metrics(call_network(unwrap(self._network()).eval(), inputs), targets)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        return self._found[index]


def _check_data(name: str, data: object) -> None:
    if data is None or is_dataset(data):
        return
    if isinstance(data, Iterator):
        raise TaskError(
            f"SimpleTask: {name} is a {type(data).__name__}, which can be gone through only once; "
            "give a Dataset, a DataLoader or a list of batches"
        )
    if not isinstance(data, Iterable):
        raise TaskError(
            f"SimpleTask: {name} should be a Dataset or an iterable of batches but is a {type(data).__name__}"
        )


def with_model(task: Task, model: NamedModel) -> Task:
    """Returns a task with another network, and its weights if it brings any; the rest is the task's."""
    if isinstance(task, SimpleTask):
        task = replace(task, network=model.build)
    members = {member: getattr(task, member) for member in _MEMBERS}
    members |= {"network": model.build, "model_name": model.name, "load": model.load or task.load}
    return cast(Task, SimpleNamespace(**members))


def build_task(
    name: str,
    model: str | None = None,
    data: Path | None = None,
    progress: Hook | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Returns the task of a registry name or of `package.module:attribute`, a task or a callable that returns one.

    Args:
        name: the task's.
        model: replaces the task's network: a registry name, that of another library (`timm:resnet18`), or
            `package.module:callable`.
        data: the folder or file of a built-in task's data.
        progress: called while a built-in task trains its network on first use.
        options: a built-in task's own settings.

    Raises:
        UnknownName: no such task or model.
        PluginError: it cannot be imported, or fails when it is called.
        TaskError: it is no task, or the model does not fit it.
        DataError: a built-in task's data are missing or damaged.
    """
    if not is_own("task", name):
        builder, own = resolve("task", name), {"options": options} if options else {}
        if own and "options" not in inspect.signature(builder).parameters:
            raise TaskError(f"task {name!r} has no options; leave out task.options ({', '.join(own['options'])})")
        return cast(Task, builder(model=model, data=data, progress=progress, **own))
    if options:
        raise TaskError(f"task {name!r} is your own; task.options ({', '.join(options)}) are for built-in ones")
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
