"""Rules of recurrent layers: hidden units are tied over the gates and into the next step and layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from autoprune.graph.channel_ids import axes_of, lay_along
from autoprune.graph.modules.recurrent_axes import RecurrentAxis
from autoprune.graph.rules.base import Activation, Channels, Operation, Product

States = Mapping[tuple[str, int, int], Tensor]
"""Kind of channels, layer and direction to `[channels]` ids."""


def tie_units(
    channels: Channels,
    axes: Sequence[RecurrentAxis],
    tensors: Mapping[tuple[str, int], Tensor],
    inputs: Tensor | None,
    origin: str,
) -> States:
    """Ties the rows and columns of a recurrent layer's tensors that belong to one unit or channel.

    Args:
        channels: of the network.
        axes: of the layer's tensors.
        tensors: ids along each axis of each tensor, by its name in the module and the axis.
        inputs: `[inputs]` ids of the input channels; None where there are none.
        origin: why there are none.

    Returns:
        the ids of each set of channels.
    """
    found: dict[tuple[str, int, int], Tensor] = {}
    for axis in axes:
        key = (axis.channels, axis.layer, axis.direction)
        own = tensors[axis.tensor, axis.dim][axis.entries]
        if key not in found:
            found[key] = own[:, 0]
        channels.ids.tie(own, found[key][:, None])
    for where, ids in found.items():
        if where[0] == "input" and inputs is not None:
            channels.ids.tie(ids, inputs)
        elif where[0] == "input":
            channels.ids.freeze(ids, origin)
    return found


def recurrent(
    op: Operation,
    axes: Sequence[RecurrentAxis],
    tensors: Mapping[tuple[str, int], Tensor],
    whole_states: bool = False,
) -> Any:
    """Follows a recurrent layer: its output has the units of its last layer, its states those of all.

    States that are given at their dense width, or returned to go with these, have no channels of their own.

    Args:
        op: the operation; its result is the output and the final states.
        axes: of the layer's tensors.
        tensors: ids along each axis of each tensor, by its name in the module and the axis.
        whole_states: whether states are as wide as before the layer was pruned; if they are used, its units stay.
    """
    given = op.arguments("input", "hx")
    source = op.activation(given.get("input"))
    packed = given.get("input") if source is None else None
    if isinstance(packed, fx.Node) and packed.all_input_nodes:
        source = op.activation(packed.args[0])
    if source is None:
        return None
    rank = len(source.shape)
    inputs = None
    for ids in op.channels.rooted(source).ids:
        if ids.size(rank - 1) > 1 and inputs is None:
            inputs = op.channels.hold(ids, [axis for axis in axes_of(ids) if axis != rank - 1], "").flatten()
        else:
            op.channels.ids.freeze(ids, f"{op.node.name} goes along it")
    op.channels.use_statistics([source], f"{op.node.name} uses")
    units = tie_units(op.channels, axes, tensors, inputs, source.origin or f"{op.node.name} reads channels that stay")
    projected = any(kind == "projected" for kind, _, _ in units)
    outputs = "projected" if projected else "hidden"
    last = max(layer for _, layer, _ in units)
    output = torch.cat([ids for (kind, layer, _), ids in units.items() if kind == outputs and layer == last])
    states = op.operands()[1:] if source in op.operands() else op.operands()
    states = [each for each in states if each is not source]
    dense = whole_states or any(not each.along(len(each.shape) - 1) for each in states)
    used = any(user.target is not fx.node.map_arg and user.args[1:] == (1,) and user.users for user in op.node.users)
    for ids in units.values() if whole_states and used else ():
        op.channels.ids.freeze(ids, f"{op.node.name} has states that are used at the width of the layer before pruning")
    _count(op, axes, tensors, source, packed)

    def state(kind: str, shape: torch.Size) -> Activation:
        if dense or not used:
            return Activation(shape, origin=f"{op.node.name} has its states at their dense width")
        rows = [ids for (name, _, _), ids in units.items() if name == kind]
        stacked = torch.stack(rows).view(len(rows), *([1] * (len(shape) - 2)), -1)
        return Activation(shape, (stacked,))

    kinds = [outputs, "hidden"]
    if not dense:
        for kind, each in zip(kinds, states, strict=False):
            op.channels.merge(
                each.shape, [each, state(kind, each.shape) if used else _all(units, kind, each.shape)], op.node.name
            )
    else:
        for each in states:
            op.channels.freeze(each, f"{op.node.name} has its states at their dense width")

    def result(shape: Any, at: int) -> Any:
        if isinstance(shape, list):
            return [result(each, i) for i, each in enumerate(shape)]
        return state(kinds[at], shape) if isinstance(shape, torch.Size) else None

    first, rest = op.shape[0], op.shape[1]
    if isinstance(first, torch.Size):
        whole: Any = op.result([lay_along(output, len(first), -1)], first)
    else:  # a packed sequence
        data = op.result([lay_along(output, len(first[0]), -1)], first[0])
        whole = [data, *(None if each is None else Activation(each) for each in first[1:])]
    return [whole, result(rest, 0)]


def _all(units: States, kind: str, shape: torch.Size) -> Activation:
    rows = [ids for (name, _, _), ids in units.items() if name == kind]
    return Activation(shape, (torch.stack(rows).view(len(rows), *([1] * (len(shape) - 2)), -1),))


def _count(
    op: Operation,
    axes: Sequence[RecurrentAxis],
    tensors: Mapping[tuple[str, int], Tensor],
    source: Activation,
    packed: Any,
) -> None:
    node = op.node.args[0] if packed is None else packed.args[0]
    steps = prod(op.single(node, source)[:-1])
    for tensor in dict.fromkeys(axis.tensor for axis in axes if axis.dim == 1):
        rows, columns = tensors[tensor, 0], tensors[tensor, 1]
        layer = f"{op.owner}.{tensor}".lstrip(".")
        op.channels.products.setdefault(op.node, []).append(Product(layer, 2 * steps, (rows, columns)))


def pack(op: Operation) -> Any:
    """Packs `[batch, time, …]` into `[entries, …]`; other axes keep their channels."""
    return _repack(op, (0, 1), lambda ids: ids.reshape(1, *ids.shape[2:]))


def pad_packed(op: Operation) -> Any:
    """Pads `[entries, …]` to `[batch, time, …]`, or time first; other axes keep their channels."""
    return _repack(op, (0,), lambda ids: ids.unsqueeze(0))


def _repack(op: Operation, positions: Sequence[int], move: Callable[[Tensor], Tensor]) -> Any:
    source = op.activation(op.node.args[0])
    if source is None or not isinstance(op.shape, list):
        return None
    arrays = op.channels.rooted(source).ids
    if any(ids.size(axis) > 1 for ids in arrays for axis in positions):
        return None
    op.channels.use_statistics([source], f"{op.node.name} uses")
    moved = Activation(op.shape[0], tuple(map(move, arrays)), origin=source.origin)
    return [moved, *(Activation(each) if isinstance(each, torch.Size) else None for each in op.shape[1:])]


def cell(op: Operation) -> Any:
    """`lstm_cell`, `gru_cell` and `rnn_tanh_cell`: one step with given states."""
    given = op.arguments("input", "hx", "w_ih", "w_hh", "b_ih", "b_hh")
    source, w_ih, w_hh = (op.activation(given.get(key)) for key in ("input", "w_ih", "w_hh"))
    hx = given.get("hx")
    states = [op.activation(each) for each in (hx if isinstance(hx, (tuple, list)) else [hx])]
    if source is None or w_ih is None or w_hh is None or any(each is None for each in states):
        return None
    columns = w_hh.along(1)
    rows = [each.along(0)[0].flatten() for each in (w_ih, w_hh) if each.along(0)]
    rows += [each.ids[0].flatten() for key in ("b_ih", "b_hh") if (each := op.activation(given.get(key))) and each.ids]
    if not columns:
        return None
    units = columns[0].flatten()
    for ids in rows:
        op.channels.ids.tie(ids.view(-1, len(units)), units[None])
    op.channels.use_statistics([source], f"{op.node.name} uses")
    inputs = [ids for ids in op.channels.rooted(source).ids if axes_of(ids) == [len(source.shape) - 1]]
    for ids in source.ids:
        if not inputs:
            op.channels.ids.freeze(ids, f"{op.node.name} goes along it")
    if inputs and w_ih.along(1):
        op.channels.ids.tie(inputs[0].flatten(), w_ih.along(1)[0].flatten())
    elif w_ih.along(1):
        op.channels.ids.freeze(w_ih.along(1)[0], source.origin or f"{op.node.name} reads channels that stay")
    shapes = op.shape if isinstance(op.shape, list) else [op.shape]
    wanted = Activation(shapes[0], (lay_along(units, len(shapes[0]), -1),))
    for each in states:
        if each is not None:
            op.channels.merge(shapes[0], [wanted, each], op.node.name)
    batch = prod(op.single(given["input"], source)[:-1])
    for weight in (w_ih, w_hh):
        arrays = tuple(ids.flatten() for ids in weight.ids)
        factor = 2 * batch * prod(size for dim, size in enumerate(weight.shape) if not weight.along(dim))
        op.channels.products.setdefault(op.node, []).append(Product(op.layer_name(), factor, arrays))
    results = [op.result(wanted.ids, shape) for shape in shapes]
    return results if isinstance(op.shape, list) else results[0]
