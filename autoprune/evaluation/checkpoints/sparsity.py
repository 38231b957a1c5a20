"""Sparsity of the weights of a checkpoint: the tensors that count, and what is counted of each."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from autoprune.core.sparsity import SparsityRow, SparsityTable, fraction_of_zeros
from autoprune.errors import CheckpointError
from autoprune.tasks.weights import read_state_dict

_WEIGHT = re.compile(r"(?:.*[._])?weight|(?:.*\.)?weight_(?:ih|hh|hr)_l\d+(?:_reverse)?")
_MASKED, _MASK = "weight_orig", "weight_mask"
_CHUNK = 1 << 20


def sparsity_table_of(path: Path) -> SparsityTable:
    """Returns the sparsity table of a file of weights, dense or pruned; no network is built.

    Raises:
        CheckpointError: as `read_state_dict`, or the file holds no weights that count.
    """
    weights = weights_in(read_state_dict(path))
    if not weights:
        raise CheckpointError(
            f"checkpoint {path} holds no weights of convolutions or linear layers; expected tensors of real numbers "
            "that have two or more dimensions and names that end in weight"
        )
    if faults := [name for name, weight in weights.items() if weight.is_meta]:
        raise CheckpointError(f"checkpoint {path} holds {faults[0]} without its values (a tensor on the meta device)")
    return sparsity_table(weights)


def weights_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of convolutions and linear layers in a state dict, as far as names and shapes tell.

    Those are tensors of real numbers and two or more dimensions that are named `weight`, `…_weight` (the projections of
    attention) or as the matrices of recurrent layers. Norms, biases and buffers are not among them. An embedding, or a
    norm over several dimensions, looks like a layer and counts as one; a tensor under two names counts twice. Where
    `torch.nn.utils.prune` keeps a weight beside its mask (`weight_orig`, `weight_mask`), their product is the weight.
    What another parametrisation makes of its originals, a file does not say; those are left out.

    Args:
        state: name to a tensor `[…]` of any shape.

    Returns:
        name to a weight `[out, in, …]`.
    """
    found = {}
    for name, tensor in state.items():
        layer = name.removesuffix(_MASKED)
        mask = state.get(layer + _MASK)
        if layer != name and mask is not None and mask.shape == tensor.shape:
            name, tensor = f"{layer}weight", tensor * mask
        if _WEIGHT.fullmatch(name) and tensor.dim() >= 2 and _is_real(tensor):
            found[name] = tensor
    return found


def _is_real(tensor: Tensor) -> bool:
    return tensor.dtype != torch.bool and not tensor.is_complex()


def sparsity_table(weights: Mapping[str, Tensor]) -> SparsityTable:
    """Returns one row for every tensor; `SparsityRow` defines the columns.

    Args:
        weights: name to `[out, in]`, of a linear layer, or `[out, in / groups, …]`, of a convolution.
    """
    return SparsityTable([_row(name, _strided(weight.detach())) for name, weight in weights.items()])


def _strided(weight: Tensor) -> Tensor:
    """Returns the values as a plain tensor: quantised ones and sparse layouts lack the operations that count."""
    return weight.dequantize() if weight.is_quantized else weight.to_dense()


def _row(name: str, weight: Tensor) -> SparsityRow:
    linear = weight.dim() == 2
    alive = weight != 0
    kernels = alive if linear else alive.flatten(2).any(2)
    rows, columns = _zeros(kernels.any(1)), _zeros(kernels.any(0))
    not_finite = sum(int((~chunk.isfinite()).sum()) for chunk in _chunks(weight))
    std, mean, magnitude = (None, None, None) if not_finite else _moments(weight)
    return SparsityRow(
        name,
        tuple(weight.shape),
        nonzero=int(alive.count_nonzero()),
        not_finite=not_finite,
        zero_columns=columns if linear else 0.0,
        zero_rows=rows if linear else 0.0,
        zero_channels=0.0 if linear else columns,
        zero_kernels=rows if linear else _zeros(kernels),
        zero_filters=0.0 if linear else rows,
        std=std,
        mean=mean,
        mean_magnitude=magnitude,
    )


def _zeros(alive: Tensor) -> float:
    return fraction_of_zeros(alive.numel(), int(alive.count_nonzero()))


def _moments(weight: Tensor) -> tuple[float | None, ...]:
    """Returns deviation, mean and mean magnitude, in double precision whatever the type; None where not finite."""
    count = weight.numel()
    if not count:
        return None, None, None
    mean = sum(float(chunk.sum()) for chunk in _chunks(weight)) / count
    magnitude = sum(float(chunk.abs().sum()) for chunk in _chunks(weight)) / count
    squares = sum(float((chunk - mean).square().sum()) for chunk in _chunks(weight))
    std = math.sqrt(squares / (count - 1)) if count > 1 else math.nan
    return tuple(value if math.isfinite(value) else None for value in (std, mean, magnitude))


def _chunks(weight: Tensor) -> Iterator[Tensor]:
    """Yields the entries in pieces of double precision: all of a large layer would take much memory."""
    flat = weight.flatten()
    return (flat[start : start + _CHUNK].double() for start in range(0, len(flat), _CHUNK))
