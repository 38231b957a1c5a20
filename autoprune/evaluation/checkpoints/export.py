"""Thinned networks in formats that need neither autoprune nor the network's own class."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

from autoprune.errors import UserError
from autoprune.files import write_whole
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import deep_copy, unwrap

_LENGTH = 160


class _WithoutThisThread(io.TextIOBase):
    """A stream that drops what the thread that made it writes, and passes on what others write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def suppress_export_output() -> Iterator[None]:
    """Suppresses torch's warnings, its log, and what this thread prints to stderr."""
    log = logging.getLogger("torch")
    level = log.level
    with warnings.catch_warnings(), contextlib.redirect_stderr(_WithoutThisThread(sys.stderr)):
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(level)


def in_one_line(fault: BaseException) -> str:
    """Returns the beginning of an error's first cause, in one line."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    return textwrap.shorten(str(fault), _LENGTH, placeholder="…")


def export_network(network: nn.Module, inputs: Any, path: Path, form: str) -> Path:
    """Writes a network for batches of any size, and returns the path: `path` with the suffix of the format.

    Args:
        inputs: two samples to trace it with, as it takes them (see `ModelInputs.of`).
        form: `pt2` (`torch.export`) or `onnx`.

    Raises:
        UserError: ONNX is not installed, or the network cannot be exported.
        OSError: the file cannot be written.
    """
    network = deep_copy(unwrap(network)).cpu().eval()
    target, given = path.with_suffix(f".{form}"), ModelInputs.of(inputs)
    try:
        with suppress_export_output():
            content = _as_pt2(network, given) if form == "pt2" else _as_onnx(network, given)
    except (RuntimeError, torch.onnx.OnnxExporterError) as fault:
        raise UserError(f"the network cannot be exported as {form}: {in_one_line(fault)}") from fault
    write_whole(target, content)
    return target


def _dynamic_shapes(network: nn.Module, inputs: ModelInputs) -> dict[str, Any]:
    """Returns by argument which axes of its tensors may have another size: those of the samples."""
    axes = {inputs.axis: torch.export.Dim("batch")}
    shapes = inputs.map_tensors(lambda tensor: axes if tensor.size(inputs.axis) == len(inputs) else None)
    return dict(inspect.signature(network.forward).bind(*shapes.args, **shapes.kwargs).arguments)


def _as_pt2(network: nn.Module, inputs: ModelInputs) -> bytes:
    content = io.BytesIO()  # torch's own writer ends the process where the disk is full
    program = torch.export.export(
        network, inputs.args, dict(inputs.kwargs), dynamic_shapes=_dynamic_shapes(network, inputs)
    )
    torch.export.save(program, content)
    return content.getvalue()


def _as_onnx(network: nn.Module, inputs: ModelInputs) -> bytes:
    _check_onnx()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shapes = _dynamic_shapes(network, inputs)
    program = torch.onnx.export(
        network, inputs.args, kwargs=dict(inputs.kwargs), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    assert program is not None  # as it always is with dynamo
    content: bytes = program.model_proto.SerializeToString()
    return content


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--export onnx needs {' and '.join(missing)}; install them with: pip install 'autoprune[onnx]'"
        )
