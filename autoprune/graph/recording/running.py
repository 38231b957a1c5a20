"""Runs networks as their users wrote them: copies of them, their modes, and where in their code something happened."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import ForeignExit, TaskError, describe, foreign_code
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import qualified_name
from autoprune.graph.networks import deep_copy

_UNINITIALISED = (nn.UninitializedParameter, nn.UninitializedBuffer)


_OWN = (torch.__path__[0] + os.sep, __file__.rpartition("graph")[0], "<frozen ")


@contextmanager
def mode(network: nn.Module, training: bool) -> Iterator[None]:
    """Puts the network and all its modules into one mode for a while, and each back into its own afterwards."""
    before = {module: module.training for module in network.modules()}
    for module in before:
        module.training = training
    try:
        yield
    finally:
        for module, was in before.items():
            module.training = was


@contextmanager
def copy_of(network: nn.Module) -> Iterator[nn.Module]:
    """Lends a deep copy of a network; its tensors go at once, also where its modules refer to each other."""
    empty = [name for name, tensor in held_tensors(network) if isinstance(tensor, _UNINITIALISED)]
    if empty:
        raise TaskError(
            f"{type(network).__name__} has parameters that get their shapes at its first run ({', '.join(empty[:3])}); "
            "run it once on some inputs before it is pruned"
        )
    try:
        copied = deep_copy(network)
    except (RuntimeError, TypeError) as fault:
        raise TaskError(f"{type(network).__name__} cannot be copied ({fault})") from fault
    try:
        yield copied
    finally:
        for module in copied.modules():
            module._parameters.clear()
            module._buffers.clear()


def run(network: nn.Module, inputs: ModelInputs, failed: Callable[[], str] | None = None) -> Any:
    """Returns what a network gives for some inputs.

    Args:
        network: the user's, or made of it.
        inputs: whatever it takes.
        failed: returns the name of the module that failed.

    Raises:
        TaskError: its forward fails; the message is a single line, with the module and the line of code if known.
    """
    try:
        with foreign_code(), torch.compiler.set_stance("force_eager"):  # compiling takes longer than a few runs
            return inputs.call(network)
    except Exception as fault:  # whatever the user's network raises
        line = line_of(fault)
        module = failed() if failed is not None else ""
        where = f" in {module}" if module else ""
        said = " ".join(describe(fault).split())
        hint = "; autoprune runs networks without gradients" if "does not require grad" in said else ""
        raise TaskError(f"the network cannot run on {inputs}{where}{line and f' ({line})'}: {said}{hint}") from fault


def held_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, module in network.named_modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield qualified_name(name, key), tensor


def users_line() -> str:
    """Returns file and line of the innermost code of the network that is neither torch's nor ours."""
    found, frame = "", sys._getframe(1)
    while frame is not None:
        if frame.f_code is run.__code__:
            return found
        if not found and not frame.f_code.co_filename.startswith(_OWN):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def line_of(fault: BaseException) -> str:
    """Returns file and line of the innermost code that is neither torch's nor ours on the way to an error."""
    cause = fault.__cause__ if isinstance(fault, ForeignExit) and fault.__cause__ else fault
    frames = [*traceback.walk_tb(cause.__traceback__)]
    lines = [f"{f.f_code.co_filename}:{line}" for f, line in frames if not f.f_code.co_filename.startswith(_OWN)]
    return lines[-1] if lines else ""
