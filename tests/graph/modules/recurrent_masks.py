"""Recurrent layers with random weights, and their masks, written row by row."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

INPUTS, UNITS, PROJECTED = 4, 5, 3


def recurrent(kind: str, **options: object) -> nn.RNNBase:
    """Builds a layer of a kind, `lstm`, `projected`, `gru`, `tanh` or `relu`, in double precision."""
    torch.manual_seed(0)
    if kind in ("tanh", "relu"):
        module: nn.RNNBase = nn.RNN(INPUTS, UNITS, nonlinearity=kind, dtype=torch.float64, **options)  # type: ignore
    elif kind == "gru":
        module = nn.GRU(INPUTS, UNITS, dtype=torch.float64, **options)  # type: ignore[arg-type]
    else:
        size = PROJECTED if kind == "projected" else 0
        module = nn.LSTM(INPUTS, UNITS, proj_size=size, dtype=torch.float64, **options)  # type: ignore[arg-type]
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module.eval()


def masked(
    module: nn.RNNBase,
    hidden: Mapping[tuple[int, int], Tensor],
    projected: Mapping[tuple[int, int], Tensor] | None = None,
    inputs: Tensor | None = None,
) -> nn.RNNBase:
    """Zeroes, in a copy, what makes removed units and channels and what uses them."""
    module = copy.deepcopy(module)
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    projects = module.proj_size > 0
    size = module.proj_size or module.hidden_size
    directions = 2 if module.bidirectional else 1

    def zero(name: str, row: int | None = None, column: int | None = None) -> None:
        weight = getattr(module, name, None)
        if weight is not None:
            weight[row if column is None else (slice(None), column)] = 0

    with torch.no_grad():
        for layer in range(module.num_layers):
            for way in range(directions):
                key = f"l{layer}" + ("_reverse" if way else "")
                for unit in set(range(UNITS)) - set(hidden.get((layer, way), torch.arange(UNITS)).tolist()):
                    for gate in range(gates):
                        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                            zero(f"{name}_{key}", row=gate * UNITS + unit)
                    if projects:
                        zero(f"weight_hr_{key}", column=unit)
                of_output = (projected or {}) if projects else hidden
                for channel in set(range(size)) - set(of_output.get((layer, way), torch.arange(size)).tolist()):
                    if projects:
                        zero(f"weight_hr_{key}", row=channel)
                    zero(f"weight_hh_{key}", column=channel)
                    for user in (f"l{layer + 1}", f"l{layer + 1}_reverse"):
                        zero(f"weight_ih_{user}", column=way * size + channel)
        for channel in set(range(INPUTS)) - set((torch.arange(INPUTS) if inputs is None else inputs).tolist()):
            for key in ("l0", "l0_reverse"):
                zero(f"weight_ih_{key}", column=channel)
    return module
