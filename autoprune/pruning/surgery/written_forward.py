"""Modules whose `forward` is written anew from what was recorded, where it named a channel count that has changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.graph_module import _format_import_block
from torch.fx.node import map_aggregate
from torch.package.importer import sys_importer

from autoprune.errors import AutopruneError
from autoprune.graph.recording.module_graphs import ModuleGraph, Path


class OtherCall(AutopruneError):
    """A module with a written forward is called in another way than it was recorded with."""


@dataclass(frozen=True)
class WrittenCode:
    """What a module does in one mode, as Python.

    Attributes:
        source: imports, and a function `forward` of the module and of what `paths` select.
        paths: where in the call's `(args, kwargs)` its arguments are.
        given: by path, what other arguments were when it was recorded.
        function: the source, compiled here so that `torch.compile` need not.
    """

    source: str
    paths: tuple[Path, ...]
    given: tuple[tuple[Path, Any], ...]
    function: Callable[..., Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", _compiled(self.source))

    def __reduce__(self) -> tuple[Any, ...]:
        return WrittenCode, (self.source, self.paths, self.given)

    @classmethod
    def of(cls, part: ModuleGraph) -> WrittenCode:
        """Writes a module's graph out."""
        code = part.graph.python_code("self")
        return cls(_format_import_block(code.globals, sys_importer) + code.src, part.paths, tuple(part.given.items()))

    def select(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Takes the arguments of `forward` out of a call's.

        Raises:
            OtherCall: the call is of another kind than the one recorded.
        """
        whole = (args, kwargs)
        for path, value in self.given:
            found = _at(whole, path)
            if found is not value and (isinstance(found, Tensor) or found != value):
                raise OtherCall(
                    f"argument {path[-1]!r} was {value!r} when the module was recorded, and is a "
                    f"{type(found).__name__} now"
                )
        return [_at(whole, path) for path in self.paths]


def _at(value: Any, path: Path) -> Any:
    for key in path:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise OtherCall(f"the module was recorded with an argument {key!r}") from None
    return value


@cache
def _compiled(source: str) -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(compile(source, "<written by autoprune>", "exec"), names)
    return names["forward"]  # type: ignore[no-any-return]


class WrittenForward(nn.Module):
    """A module of the user's class whose `forward` is written from what it did when it was recorded.

    It is made where a number in the user's `forward`, which nothing but the code states, counts channels of which some
    are gone. Modules, parameters, buffers, hooks and attributes are those of the user's module; it does what that did
    in evaluation and in training mode, when called with the same kinds of arguments.
    """

    _written: dict[bool, WrittenCode]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Does what was recorded in the mode that the module is in."""
        code = self._written[self.training if self.training in self._written else not self.training]
        return code.function(self, *code.select(args, kwargs))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuild, (type(self).__mro__[2],), self.__dict__


def write_forward(module: nn.Module, parts: Mapping[bool, ModuleGraph]) -> None:
    """Gives a module a forward that is written from a recording, in place; it becomes a subclass of its class.

    Args:
        module: one that nothing else needs as it is.
        parts: by whether it is in training mode; where there is one alone, it serves both.
    """
    if not isinstance(module, WrittenForward):
        module.__class__ = _subclass(type(module))  # type: ignore[arg-type]
    for part in parts.values():
        _follow_device_and_type(part, module)
    module._written = {training: WrittenCode.of(part) for training, part in parts.items()}  # type: ignore[assignment]
    for part in parts.values():
        for name, tensor in part.constants.items():
            module.register_buffer(name, tensor, persistent=False)


def _follow_device_and_type(part: ModuleGraph, module: nn.Module) -> None:
    """Replaces the device on which a module was recorded, and its data type where it asks for it, by those it has."""
    named = ((name, each) for name, each in module.named_parameters() if each.is_floating_point())
    name, parameter = next(named, ("", None))
    if parameter is None:
        return
    first = next(node for node in part.graph.nodes if node.op != "placeholder")
    with part.graph.inserting_before(first):
        own = part.graph.get_attr(name)
        device = part.graph.call_function(getattr, (own, "device"))
        dtype = part.graph.call_function(getattr, (own, "dtype"))

    def follow(value: Any) -> Any:
        if isinstance(value, torch.device):
            return device
        return dtype if part.asks_types and value is parameter.dtype else value

    for node in part.graph.nodes:
        node.args, node.kwargs = map_aggregate(node.args, follow), map_aggregate(node.kwargs, follow)
    for node in (dtype, device, own):
        if not node.users:
            part.graph.erase_node(node)


@cache
def _subclass(cls: type) -> type:
    """Returns the subclass with a written forward; it bears the name of the class."""
    return type(cls.__name__, (WrittenForward, cls), {"__module__": cls.__module__, "__doc__": WrittenForward.__doc__})


def _rebuild(cls: type) -> nn.Module:
    found: Any = _subclass(cls)
    module: nn.Module = found.__new__(found)
    return module
