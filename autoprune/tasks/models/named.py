"""A network together with the name that identifies it in records and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from autoprune.errors import TaskError
from autoprune.plugins import call
from autoprune.registry import MODELS, is_own, library_of, resolve

ModelChoice = str | Callable[[], nn.Module]


@dataclass(frozen=True)
class NamedModel:
    """What builds a dense network.

    Attributes:
        name: of the registry, with a prefix of the registry's (`timm:resnet18`), or `package.module:callable`.
        builder: builds the network, its weights not yet loaded.
        load: loads a checkpoint into it, or weights that come with it; None leaves that to the task.
    """

    name: str
    builder: Callable[[], nn.Module]
    load: Callable[[nn.Module, Path | None], None] | None = None

    @property
    def bundled(self) -> bool:
        return self.name in MODELS

    def build(self) -> nn.Module:
        """Returns the network, its weights not yet loaded.

        Raises:
            PluginError: the user's function fails.
            TaskError: it returns no network.
        """
        if self.bundled or self.load is not None:
            return self.builder()
        network = call(self.builder, self.name)
        if not isinstance(network, nn.Module):
            raise TaskError(
                f"model {self.name!r} should return a torch.nn.Module but returned a {type(network).__name__}"
            )
        return network


def named_model(
    choice: ModelChoice, fitting: Collection[str] | None = None, task: str = "", **options: int | None
) -> NamedModel:
    """Returns the model of a registry name, of a library (`timm:resnet18`), of `package.module:callable` or a function.

    Args:
        choice: the name or function.
        fitting: registry names that fit the task; None allows all.
        task: its name, for messages.
        **options: what a library's network is told: `classes`, `image_size`.

    Raises:
        UnknownName: no such registry name.
        PluginError: the user's module cannot be imported.
        TaskError: a registry model that does not fit, nothing that can be called, or no such network in a library.
        UserError: the library is not installed.
    """
    if not isinstance(choice, str):
        return NamedModel(qualified_name(choice), choice)
    found = resolve("model", choice)
    if library_of(choice) is not None and (fitting is None or options):
        return cast(NamedModel, found(choice.partition(":")[2], **options))
    if is_own("model", choice):
        return NamedModel(choice, _callable(found, choice))
    if fitting is not None and choice not in fitting:
        raise TaskError(f"model {choice!r} does not fit task {task!r}; it takes {', '.join(sorted(fitting))}")
    return NamedModel(choice, found)


def _callable(found: Any, text: str) -> Callable[[], nn.Module]:
    if isinstance(found, nn.Module):
        raise TaskError(f"{text!r} is a network; expected a function or class that builds one anew at each call")
    if not callable(found):
        raise TaskError(f"{text!r} is a {type(found).__name__}; expected a function or class that builds a network")
    return cast(Callable[[], nn.Module], found)  # what it returns is checked when it is called


def qualified_name(found: object) -> str:
    """Returns `package.module:name` of a function or class, or of the class of anything else."""
    named = found if hasattr(found, "__qualname__") else type(found)
    return f"{named.__module__}:{named.__qualname__}"
