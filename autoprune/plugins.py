"""Imports the user's own code by name: `package.module:attribute`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

from autoprune.errors import ForeignExit, PluginError, describe, did_you_mean, foreign_code
from autoprune.torchvision_operators import import_beside_torchvision


def is_reference(text: str) -> bool:
    """Returns whether a text has the form `package.module:attribute`."""
    module_name, _, attribute = text.partition(":")
    parts = [*module_name.replace("-", "_").split("."), *attribute.split(".")]  # a file's name may have dashes
    return all(part.isidentifier() for part in parts)


def load(text: str) -> Any:
    """Returns the attribute that `package.module:attribute` names.

    The current folder goes to the front of `sys.path` and stays there, as with `python -m`.

    Raises:
        PluginError: the text has not this form, the module is missing or fails while it is imported, or has no such
            attribute.
    """
    module_name, _, attribute = text.partition(":")
    if not is_reference(text):
        raise PluginError(f"{text!r} should read package.module:attribute, for example my_project.tasks:flowers")
    found: Any = _import(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, [name for name in vars(found) if not name.startswith("_")])
            where = getattr(found, "__file__", None) or module_name
            raise PluginError(f"{text!r}: {where} has no attribute {part!r}{near}")
        found = getattr(found, part)
    return found


def call(function: Callable[[], Any], text: str) -> Any:
    """Calls the user's function and returns its result.

    Raises:
        PluginError: it failed; the message names the error, file and line.
    """
    try:
        with foreign_code():
            return function()
    except Exception as error:  # the user's code may raise anything
        raise PluginError(f"{text!r} failed when it was called: {_describe(error)}") from error


def _import(name: str) -> ModuleType:
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        with foreign_code():
            return import_beside_torchvision(name)
    except Exception as error:  # the user's module may raise anything, a script even exit
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, name):
            raise PluginError(
                f"there is no module {error.name!r} (for {name!r}); looked in the current folder {folder} and among "
                "the installed packages"
            ) from None
        raise PluginError(f"module {name!r} failed while it was imported: {_describe(error)}") from error


def _is_part(missing: str | None, name: str) -> bool:
    """Returns whether the module not found is the one asked for or a package around it, not one it imports itself."""
    return missing is not None and (name == missing or name.startswith(f"{missing}."))


def _describe(error: BaseException) -> str:
    """Returns the type, the message, and the file and line where an error was raised."""
    if isinstance(error, ForeignExit) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    said = " ".join(describe(error).split())
    return f"{said} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else said


def _is_machinery(filename: str) -> bool:
    return filename.startswith("<frozen") or filename in (__file__, importlib.__file__)
