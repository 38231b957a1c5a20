"""Imports the optional libraries, each an extra of the package."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from autoprune.errors import UserError
from autoprune.torchvision_operators import complete_torchvision

_ON_TORCHVISION = ("torchvision", "timm", "transformers", "lightning", "torchmetrics")


def import_extra(name: str, extra: str) -> ModuleType:
    """Returns a module of an optional library.

    Args:
        name: of the module.
        extra: of autoprune that installs it.

    Raises:
        UserError: it is not installed, which extra installs it; or it cannot be imported, and why.
    """
    try:
        if name.partition(".")[0] in _ON_TORCHVISION:
            complete_torchvision()
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as fault:  # RuntimeError: a torchvision that is built for another torch
        library = name.partition(".")[0]
        if isinstance(fault, ModuleNotFoundError) and fault.name == library:
            raise UserError(f"{library} is not installed; pip install 'autoprune[{extra}]' installs it") from fault
        causes: list[BaseException] = [fault]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        said = " ".join(str(causes[-1]).split())
        cure = f"pip install 'autoprune[{extra}]' installs what it needs"
        if "torchvision" in said:
            cure = f"install the torchvision that is built for torch {torch.__version__}, or uninstall it"
        raise UserError(f"{library} is installed but cannot be imported ({said}); {cure}") from fault
