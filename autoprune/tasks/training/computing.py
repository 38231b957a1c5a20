"""How a training computes, whatever the caller has set: gradients, memory layout, precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.graph.inputs import ModelInputs

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def gradients_on(network: nn.Module) -> Iterator[None]:
    """Lets gradients be computed where the caller has switched them off (`no_grad`, `inference_mode`).

    Parameters and buffers that were made under inference mode, which never learn, are replaced by copies that do.
    """
    with torch.inference_mode(False), torch.enable_grad():
        copies: dict[Tensor, Tensor] = {}  # one for a tensor that several modules share
        for module in network.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and tensor.is_inference():
                        held[name] = copies.setdefault(tensor, _usual(tensor))  # type: ignore[assignment]
        yield


def _usual(tensor: Tensor) -> Tensor:
    copy = tensor.clone()
    return nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def trainable(inputs: ModelInputs) -> ModelInputs:
    """Returns inputs that may take part in a backward pass: copies of those that were made under inference mode."""
    return inputs.clone() if any(tensor.is_inference() for tensor in inputs.tensors()) else inputs


@contextlib.contextmanager
def arranged(
    network: nn.Module, channels_last: bool
) -> Iterator[Callable[[Tensor | ModelInputs], Tensor | ModelInputs]]:
    """Lays `[out, in, rows, columns]` parameters channels last, if asked, and yields what lays a batch likewise.

    Afterwards the parameters lie as before; their values, and which objects they are, never change.
    """
    if not channels_last:
        yield lambda inputs: inputs
        return
    moved = [parameter for parameter in network.parameters() if parameter.dim() == 4 and parameter.is_contiguous()]
    try:
        for parameter in moved:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        yield _channels_last
    finally:
        for parameter in moved:
            parameter.data = parameter.data.contiguous()


def _channels_last(inputs: Tensor | ModelInputs) -> Tensor | ModelInputs:
    if isinstance(inputs, Tensor) and inputs.dim() == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def autocast(plan: TrainingPlan, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Returns the context of forward pass and loss: autocast of the plan's precision, or nothing."""
    if plan.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, _TYPES[plan.precision])


def check_precision(plan: TrainingPlan, network: nn.Module, device: torch.device) -> None:
    """Checks that the plan's precision is to be had.

    Raises:
        TaskError: it is not on that device, or not with the network's weights.
    """
    if plan.precision == "fp32":
        return
    if device.type == "cpu" and plan.precision == "fp16":
        raise TaskError("precision fp16 needs a GPU, but the network is on the CPU; take bf16 or fp32 there")
    if not torch.amp.is_autocast_available(device.type):
        raise TaskError(f"torch has no mixed precision on {device.type!r} devices; train with precision fp32 there")
    half = next((name for name, p in network.named_parameters() if p.dtype == torch.float16 and p.requires_grad), None)
    if plan.precision == "fp16" and half is not None:
        raise TaskError(
            f"precision fp16 keeps the weights in fp32 and scales gradients, but {half} is fp16 itself; "
            "call network.float() first, or train with precision bf16"
        )
