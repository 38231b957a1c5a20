"""Inputs described by plain values, so that a file can say with what its network is run, without holding anyone's data.

Of tensors there are shape and type, of integers their range too. Only masks are held as they are (booleans, integers of
two values, numbers with infinities), as drawn ones may leave nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoprune.errors import CheckpointError
from autoprune.graph.drawing import is_mask
from autoprune.graph.inputs import ModelInputs

_PLAIN = (bool, int, float, str)


def describe_inputs(inputs: ModelInputs) -> dict[str, Any]:
    """Returns what `build_inputs` makes inputs of the same shapes and types from."""
    return {
        "args": [_describe(value) for value in inputs.args],
        "kwargs": {name: _describe(value) for name, value in inputs.kwargs.items()},
        "samples": inputs.samples,
        "axis": inputs.axis,
        "lists": inputs.lists,
    }


def _describe(value: Any) -> dict[str, Any]:
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        if is_mask(value):
            return {"mask": value.detach().cpu().clone()}
        if value.is_floating_point():
            return {"shape": list(value.shape), "dtype": dtype}
        return {"shape": list(value.shape), "dtype": dtype, "range": [int(value.min()), int(value.max())]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_describe(item) for item in value]}
    if type(value) is dict and all(isinstance(name, str) for name in value):
        return {"dict": {name: _describe(item) for name, item in value.items()}}
    if value is None or type(value) in _PLAIN:
        return {"value": value}
    return {"unknown": type(value).__name__}


def build_inputs(description: Mapping[str, Any]) -> ModelInputs:
    """Returns inputs as `describe_inputs` described them: zeros, and integers drawn in their range.

    Raises:
        CheckpointError: an argument is of a class that a file does not hold.
        KeyError, TypeError, ValueError, AttributeError: it is no such description.
    """
    generator = torch.Generator().manual_seed(0)
    args = tuple(_build(value, generator) for value in description["args"])
    kwargs = {name: _build(value, generator) for name, value in description["kwargs"].items()}
    samples, axis = int(description["samples"]), int(description["axis"])
    return ModelInputs(args, kwargs, samples, axis, bool(description["lists"]))


def _build(found: Mapping[str, Any], generator: torch.Generator) -> Any:
    if "unknown" in found:
        raise CheckpointError(
            f"the checkpoint's network takes a {found['unknown']}, which a file does not hold: pass samples that it "
            "takes, autoprune.load(path, model, inputs=...)"
        )
    if "shape" in found:
        dtype = getattr(torch, found["dtype"])
        if "range" not in found:
            return torch.zeros(found["shape"], dtype=dtype)
        low, high = found["range"]
        return torch.randint(low, high + 1, found["shape"], generator=generator).to(dtype)
    if "dict" in found:
        return {name: _build(item, generator) for name, item in found["dict"].items()}
    for container in (list, tuple):
        if container.__name__ in found:
            return container(_build(item, generator) for item in found[container.__name__])
    return found["mask"] if "mask" in found else found["value"]
