"""Which entries of a recurrent layer's parameters belong to which of its channels, and slicing by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from autoprune.graph.modules.recurrent import Prunable, gates
from autoprune.graph.modules.slicing import keep_entries

RecurrentChannels = Literal["input", "hidden", "projected"]
"""Input channels, hidden units (those of an LSTM's cell state), or the channels to which an LSTM projects these."""


@dataclass(frozen=True)
class RecurrentAxis:
    """Entries along one axis of a recurrent layer's parameter that belong to one set of channels.

    Attributes:
        tensor: name of the parameter in the module.
        channels: what the channels are.
        layer: of the channels, 0 for inputs.
        direction: of the channels, 1 for the reverse one; 0 for inputs.
        side: whether the entries make the channels or use them.
        entries: `[channels, times]` indices along the axis; a hidden unit has a row in each gate.
    """

    tensor: str
    dim: int
    channels: RecurrentChannels
    layer: int
    direction: int
    side: Literal["out", "in"]
    entries: Tensor


def recurrent_axes(module: nn.RNNBase) -> list[RecurrentAxis]:
    """Lists which rows and columns of a recurrent layer's parameters belong to which unit or channel.

    The output `[…, channels]` of the module are the projected channels, where there are some, else the hidden units of
    the last layer, those of the forward direction first; layers before it hand on theirs to the next in the same order.
    """
    found = []
    outputs: RecurrentChannels = "projected" if module.proj_size > 0 else "hidden"
    below: list[tuple[RecurrentChannels, int, int, int]] = [("input", 0, 0, module.all_weights[0][0].shape[1])]
    for layer, keys in _by_layer(module):
        made: list[tuple[RecurrentChannels, int, int, int]] = []
        for direction, key in enumerate(keys):
            rows, width = getattr(module, f"weight_hh_{key}").shape
            units = rows // gates(module.mode)
            of_unit = torch.arange(rows).view(-1, units).T
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if module.bias else 2]:
                found.append(RecurrentAxis(f"{name}_{key}", 0, "hidden", layer, direction, "out", of_unit))
            start = 0
            for channels, of_layer, of_direction, count in below:
                entries = torch.arange(start, start + count).unsqueeze(1)
                found.append(RecurrentAxis(f"weight_ih_{key}", 1, channels, of_layer, of_direction, "in", entries))
                start += count
            each = torch.arange(width).unsqueeze(1)
            found.append(RecurrentAxis(f"weight_hh_{key}", 1, outputs, layer, direction, "in", each))
            if module.proj_size > 0:
                name, alone = f"weight_hr_{key}", torch.arange(units).unsqueeze(1)
                found.append(RecurrentAxis(name, 0, "projected", layer, direction, "out", each))
                found.append(RecurrentAxis(name, 1, "hidden", layer, direction, "in", alone))
            made.append((outputs, layer, direction, width))
        below = made
    return found


Kept = Mapping[tuple[int, int], Tensor]
"""Per (layer, direction) the indices of what stays, of what there still is; what is not named stays whole."""


def slice_recurrent(
    module: nn.RNNBase, *, inputs: Tensor | None = None, hidden: Kept | None = None, projected: Kept | None = None
) -> None:
    """Keeps only some units and channels of a recurrent layer, in place.

    Args:
        module: prunable, or of torch's own class if all layers and directions come to keep equally many.
        inputs: `[kept inputs]` indices.
        hidden: units.
        projected: channels of an LSTM with projections.

    Raises:
        ValueError: the widths differ, and the module is of torch's own class.
    """
    kept: dict[RecurrentChannels, Kept] = {
        "input": {} if inputs is None else {(0, 0): inputs}, "hidden": hidden or {}, "projected": projected or {}
    }  # fmt: skip
    stays: dict[tuple[str, int], list[Tensor]] = {}
    for axis in recurrent_axes(module):
        entries = axis.entries
        chosen = kept[axis.channels].get((axis.layer, axis.direction))
        entries = entries if chosen is None else entries[chosen.sort().values]
        stays.setdefault((axis.tensor, axis.dim), []).append(entries.T.flatten())
    for name in module._flat_weights_names:
        keep_entries(module, name, tuple(torch.cat(stays[name, d]) for d in range(2) if (name, d) in stays))
    update_sizes(module, hidden=hidden, projected=projected)


def update_sizes(module: nn.RNNBase, *, hidden: Kept | None = None, projected: Kept | None = None) -> None:
    """Sets the attributes that state sizes to those of the weights, after these have been sliced.

    Args:
        module: prunable, or of torch's own class if all layers and directions keep equally many.
        hidden: units that have stayed.
        projected: channels of an LSTM with projections that have stayed.

    Raises:
        ValueError: the widths differ, and the module is of torch's own class.
    """
    module._init_flat_weights()
    module.input_size = module.all_weights[0][0].shape[1]
    if isinstance(module, Prunable):
        outputs = projected if module.proj_size > 0 else hidden
        module.kept_units = _narrowed(module, module.kept_units, module.hidden_size, hidden or {})
        module.kept_outputs = _narrowed(
            module, module.kept_outputs, module.proj_size or module.hidden_size, outputs or {}
        )
        return
    widths = {tuple(getattr(module, names[1]).shape) for names in module._all_weights}
    rows, width = widths.pop()
    units = rows // gates(module.mode)
    if widths or (module.proj_size > 0 and width >= units):
        raise ValueError(
            f"{type(module).__name__} needs equally many units in all layers and directions, and more than it projects "
            "to; call make_prunable first"
        )
    module.hidden_size, module.proj_size = units, width if module.proj_size > 0 else 0


def _narrowed(module: nn.RNNBase, positions: Tensor, size: int, kept: Kept) -> Tensor:
    """Returns those of the positions in flattened states `[layers · directions, size]` that stay."""
    directions = 2 if module.bidirectional else 1
    row = positions // size
    stays = []
    for i in range(module.num_layers * directions):
        own = positions[row == i]
        chosen = kept.get((i // directions, i % directions))
        stays.append(own if chosen is None else own[chosen.sort().values.to(own.device)])
    return torch.cat(stays)


def _by_layer(module: nn.RNNBase) -> Iterator[tuple[int, list[str]]]:
    """Yields each layer with what its parameters' names end with, per direction."""
    for layer in range(module.num_layers):
        yield layer, [f"l{layer}", f"l{layer}_reverse"][: 2 if module.bidirectional else 1]
