"""A `LightningModule` with its data module as a task."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.graph.inputs import call_network
from autoprune.tasks.adapters.extras import import_extra
from autoprune.tasks.base import Hook, Task
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training.loop import check_loss, train

_PACKAGES = ("lightning", "pytorch_lightning")
_SPLITS = {"train": "train_data", "val": "validation_data", "test": "test_data"}


def from_module(module: Any, datamodule: Any = None, part: str | None = None, **fields: Any) -> SimpleTask:
    """Returns a task whose network, data and training are those of a `LightningModule`.

    It trains by autoprune's loop, in which `training_step` gives the loss: optimizer, rates and precision are those of
    the plan, not of `configure_optimizers` and a `lightning.Trainer`, whose callbacks are not called. What
    `training_step` logs is dropped. Batches are judged by the task's loss and metrics, not by `validation_step`.

    Args:
        module: a `LightningModule`, or what builds one without arguments (its class, say). One that is trained, as
            `load_from_checkpoint` gives it, is copied wherever a network is built.
        datamodule: a `LightningDataModule`, or what builds one; None: the module's own data loaders.
        part: the attribute that is the network, where `training_step` calls `self.model(x)`, not `self(x)`; None: the
            module itself.
        **fields: of `SimpleTask`: metrics, `inputs` and `targets` of a batch, `plain_data`, a name; and the loss of
            `(outputs, targets)` by which samples are judged, where the default is not what `training_step` gives.

    Raises:
        TaskError: these are no such modules, they need a `Trainer`, data are missing, or the loss has to be given.
    """
    whole = _Whole(module, part)
    found = whole.build()
    data = _built(datamodule, "datamodule") if datamodule is not None else found
    named = {"name": type(found).__name__, **_data_of(data), **fields}
    if missing := [name for name in ("train_data", "validation_data") if name not in named]:
        raise TaskError(
            f"{type(data).__name__} gives no {' and no '.join(missing)}; write its train_dataloader and "
            f"val_dataloader, or pass {missing[0]}=… to from_module"
        )
    task = SimpleTask(whole.network, training=whole.train, **named)
    if "loss" not in fields:
        _check_default_loss(whole, task)
    return task


class _Whole:
    """A module with the part of it that is the network.

    Args:
        module: as `from_module` takes it.
        part: likewise.
    """

    def __init__(self, module: Any, part: str | None) -> None:
        self._module, self._part = module, part

    def build(self) -> Any:
        """Returns the module anew.

        Raises:
            TaskError: it is no `LightningModule`, or optimizes by itself.
        """
        given = self._module
        found: Any = copy.deepcopy(given) if isinstance(given, nn.Module) else _built(given, "module")
        if _package_of(found, "LightningModule") is None:
            import_extra("lightning", "lightning")  # says so where that is why
            raise TaskError(
                f"from_module takes a LightningModule, or its class, but was given a {type(found).__name__}"
            )
        if not found.automatic_optimization:
            raise TaskError(
                f"{type(found).__name__} optimizes by itself (automatic_optimization = False), which the plan and the "
                "hooks of a training cannot enter; give its network to autoprune.SimpleTask with training=your own loop"
            )
        found.configure_model()
        return found

    def network(self) -> nn.Module:
        """Returns the network anew."""
        return self.part_of(self.build())

    def part_of(self, module: Any) -> nn.Module:
        """Returns the network inside a module.

        Raises:
            TaskError: there is none of that name.
        """
        found = module if self._part is None else getattr(module, self._part, None)
        if isinstance(found, nn.Module):
            return found
        raise TaskError(f"{type(module).__name__} has no network {self._part!r}; part= should name one of its modules")

    def around(self, network: nn.Module) -> Any:
        """Returns a module around a network, in its place."""
        if self._part is None:
            return network
        found = self.build().train()
        setattr(found, self._part, network)
        return found.to(next((p.device for p in network.parameters()), torch.device("cpu")))

    def train(self, network: nn.Module, task: Task, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        """Trains a network in place by the module's `training_step`; see `autoprune.tasks.training.loop.train`.

        Args:
            network: on any device.
            task: gives the batches.
            plan: how long, at which rate and on batches of which size.
            hooks: called in their order at every event.
        """
        assert isinstance(task, SimpleTask)
        module = self.around(network)
        outputs_needed = any(hook.acts_at("loss_term") for hook in hooks)
        numbers = iter(range(2**62))

        def forward(network: nn.Module, inputs: Any, batch: Any) -> tuple[Any, Tensor]:
            calls: list[Any] = []
            handle = network.register_forward_hook(lambda _, args, outputs: calls.append(outputs))
            try:
                loss = training_loss(module, batch, next(numbers))
            finally:
                handle.remove()
            if not calls and outputs_needed:  # where `training_step` goes around the forward
                calls.append(call_network(network, inputs))
            return calls[0] if calls else None, loss

        batches = replace(task, targets=lambda batch: batch)  # the whole batch goes to `training_step`
        with _dropping_logs(module):
            train(network, batches, plan, hooks, forward)


def training_loss(module: Any, batch: Any, number: int) -> Tensor:
    """Returns the loss that a module's `training_step` gives for a batch.

    Args:
        module: that is trained.
        batch: as its data give it.
        number: of the batch, from 0.

    Raises:
        TaskError: it gives none, or needs a `Trainer`.
    """
    what = f"{type(module).__name__}.training_step"
    try:
        found = module.training_step(batch, number)
    except RuntimeError as fault:
        if "not attached to a `Trainer`" not in str(fault):
            raise
        raise TaskError(
            f"{what} uses self.trainer, and there is none where autoprune trains; guard it by `if self._trainer`"
        ) from fault
    loss = found.get("loss") if isinstance(found, dict) else found
    if loss is None:
        raise TaskError(f"{what} gives no loss for batch {number}; it should return one, or a dictionary with 'loss'")
    check_loss(loss, f"the loss of {what}", needs_gradient=torch.is_grad_enabled())
    return loss  # type: ignore[no-any-return]  # checked


def _check_default_loss(whole: _Whole, task: SimpleTask) -> None:
    """Checks on a batch that samples are judged by the loss that `training_step` trains by.

    Raises:
        TaskError: they are not.
    """
    module = whole.build().eval()
    network, what = whole.part_of(module), f"{task.name}.training_step"
    whole_batches = replace(task, targets=lambda batch: batch)
    cure = "pass loss=function of outputs and targets to from_module, by which samples are to be judged"
    (inputs, targets), (_, batch) = (next(iter(each.batches("train", 2))) for each in (task, whole_batches))
    with torch.no_grad(), _dropping_logs(module):
        trained = float(training_loss(module, batch, 0))
        try:
            judged = float(task.loss(call_network(network, inputs), targets))
        except Exception as fault:  # of the network or of the loss, whatever they raise
            said = " ".join(str(fault).split())
            raise TaskError(f"the default loss does not suit {task.name} ({said}); {cure}") from fault
    if not math.isclose(trained, judged, rel_tol=1e-3, abs_tol=1e-6):
        raise TaskError(f"{what} gives {trained:.4g} for a batch for which the default loss is {judged:.4g}; {cure}")


@contextlib.contextmanager
def _dropping_logs(module: Any) -> Iterator[None]:
    """Drops what a module logs, as there is no `Trainer` that would take it."""
    names = ("log", "log_dict")
    module.__dict__ |= dict.fromkeys(names, lambda *_, **__: None)
    try:
        yield
    finally:
        for name in names:
            module.__dict__.pop(name, None)


def _built(given: Any, what: str) -> Any:
    """Returns what is given, or what it builds.

    Raises:
        TaskError: it cannot be built without arguments.
    """
    if not isinstance(given, type) and (_package_of(given, "LightningDataModule") or not callable(given)):
        return given
    try:
        return given()
    except TypeError as fault:
        raise TaskError(f"the {what} cannot be built without arguments ({fault}); pass one, or a function") from fault


def _package_of(value: Any, kind: str) -> str | None:
    """Returns the package whose class of a name a value's class descends from."""
    bases = (base for base in type(value).__mro__ if base.__name__ == kind)
    return next((base.__module__.partition(".")[0] for base in bases), None)


def _data_of(owner: Any) -> dict[str, Any]:
    """Returns the data loaders of a data module, or of a module that has its own, as fields of `SimpleTask`.

    Raises:
        TaskError: there are several for a split, or they need a `Trainer`.
    """
    given = [name for name in _SPLITS if _writes(owner, f"{name}_dataloader")]
    try:
        owner.prepare_data()
        owner.setup("fit")
        if "test" in given:
            owner.setup("test")
        found = {name: getattr(owner, f"{name}_dataloader")() for name in given}
    except (AttributeError, RuntimeError) as fault:
        if "rainer" not in str(fault) and "NoneType" not in str(fault):
            raise
        raise TaskError(f"{type(owner).__name__} needs a Trainer for its data ({fault}); pass train_data=…") from fault
    loaders = {}
    for name, loader in found.items():
        if isinstance(loader, (list, tuple)) and len(loader) == 1:
            loader = loader[0]
        if isinstance(loader, (list, tuple, dict)) or type(loader).__name__ == "CombinedLoader":
            raise TaskError(
                f"{type(owner).__name__}.{name}_dataloader gives several loaders, of which a task has one; "
                f"pass {_SPLITS[name]}=… to from_module"
            )
        if loader is not None:
            loaders[_SPLITS[name]] = loader
    return loaders


def _writes(owner: Any, method: str) -> bool:
    """Returns whether a method is the user's, not Lightning's own that only raises."""
    if method in vars(owner):
        return True
    base = next((base for base in type(owner).__mro__ if method in vars(base)), None)
    return base is not None and base.__module__.partition(".")[0] not in _PACKAGES
