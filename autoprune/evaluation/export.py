"""Thinned networks in formats that need neither autoprune nor the network's own class."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.evaluation.quiet import in_one_line, quietly
from autoprune.files import write_whole

_SHAPES = ({0: torch.export.Dim("batch")},)


def export_network(network: nn.Module, inputs: Tensor, path: Path, form: str) -> Path:
    """Writes a network for batches of any size; where it went: `path` with the suffix of the format.

    Args:
        inputs: `[2, …]` samples to trace it with.
        form: `pt2` (`torch.export`) or `onnx`.

    Raises:
        UserError: ONNX is not installed, or the network cannot be exported.
        OSError: the file cannot be written.
    """
    network = copy.deepcopy(network).cpu().eval()
    target = path.with_suffix(f".{form}")
    try:
        with quietly():
            content = _as_pt2(network, inputs) if form == "pt2" else _as_onnx(network, inputs)
    except (RuntimeError, torch.onnx.OnnxExporterError) as fault:
        raise UserError(f"the network cannot be exported as {form}: {in_one_line(fault)}") from fault
    write_whole(target, content)
    return target


def _as_pt2(network: nn.Module, inputs: Tensor) -> bytes:
    content = io.BytesIO()  # torch's own writer ends the process where the disk is full
    torch.export.save(torch.export.export(network, (inputs,), dynamic_shapes=_SHAPES), content)
    return content.getvalue()


def _as_onnx(network: nn.Module, inputs: Tensor) -> bytes:
    _check_onnx()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(network, (inputs,), dynamo=True, dynamic_shapes=_SHAPES, verbose=False)
    assert program is not None  # as it always is with dynamo
    content: bytes = program.model_proto.SerializeToString()
    return content


def _check_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--export onnx needs {' and '.join(missing)}; install them with: pip install 'autoprune[onnx]'"
        )
