"""Thins networks: removes channels, so that layers are smaller and outputs the same as with the channels masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import CONVOLUTIONS, TRANSPOSED, qualified_name
from autoprune.graph.modules import attention, recurrent, recurrent_axes
from autoprune.graph.modules.weight_norm import weights_that_stay
from autoprune.graph.rules.base import Activation
from autoprune.graph.rules.channel_layers import whole_groups
from autoprune.pruning.surgery.checking import ThinningError, check_thinned
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.written_forward import WrittenForward, write_forward


def thin(network: nn.Module, graph: ChannelGraph, kept: Kept, check_on: Any = None) -> nn.Module:
    """Builds a copy of the network without the channels that go.

    It is of the network's own class, with the same modules and the same state-dict keys. Attributes that count channels
    get their new values; where only the code of a `forward` counts them (padding of channels, a view with numbers), the
    smallest module around it becomes a `WrittenForward`.

    Args:
        network: left as it is.
        graph: what `find_groups` found in this network, or in one of the same architecture.
        kept: by group, the channels that stay.
        check_on: inputs (see `ModelInputs.of`) on which it is compared with the masked network; None: it is not.

    Raises:
        UserError: `kept` does not fit the groups, or the network cannot be copied.
        ThinningError: an output differs from the masked network's.
    """
    simulation = graph.simulate(kept)
    if simulation.faults:
        raise ThinningError("; ".join(simulation.faults.values()))
    keep = graph.keep_mask(kept)
    thinned = copy_network(network)
    holders = _holders(thinned)
    losing = {axis.tensor for axis in graph.axes if not bool(keep[axis.ids].all())}
    with weights_that_stay(thinned, losing):
        for axis in graph.axes:
            _select_entries(holders[axis.tensor], axis.dim, keep[axis.ids])
    for node, after in simulation.activations.items():
        if node.op == "call_module":
            source = simulation.activations.get(node.all_input_nodes[0])
            if isinstance(source, Activation) and isinstance(after, Activation):
                _set_counts(thinned.get_submodule(str(node.target)), source.shape, after.shape)
    for module_name, module in thinned.named_modules():
        _adapt_class(module, f"{module_name}." if module_name else "", graph, keep)
    for name, value in simulation.attributes.items():
        path, _, attribute = name.rpartition(".")
        setattr(thinned.get_submodule(path), attribute, value)
    for name, parts in simulation.written.items():
        write_forward(thinned.get_submodule(name), parts)
    if check_on is not None:
        check_thinned(thinned, network, graph, kept, ModelInputs.of(check_on))
    return thinned


Holder = tuple[nn.Module, str]
"""A module, and the name under which it holds a tensor."""


def _holders(network: nn.Module) -> dict[str, list[Holder]]:
    """Maps the first name of every parameter and buffer to all modules that hold it."""
    names: dict[int, str] = {}
    found: dict[str, list[Holder]] = {}
    for path, module in network.named_modules():
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                name = names.setdefault(id(tensor), qualified_name(path, key))
                found.setdefault(name, []).append((module, key))
    return found


def _select_entries(holders: list[Holder], dim: int, stays: Tensor) -> None:
    """Replaces a tensor by its entries along one axis that stay, wherever it is held, unless all of them do."""
    if bool(stays.all()):
        return
    owner, attribute = holders[0]
    old: Tensor = getattr(owner, attribute)
    new = old.detach().index_select(dim, stays.nonzero().flatten().to(old.device)).contiguous()
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    for owner, attribute in holders:
        setattr(owner, attribute, new)


def _adapt_class(module: nn.Module, prefix: str, graph: ChannelGraph, keep: Tensor) -> None:
    """Makes an attention or a recurrent layer, whose tensors have been cut, what can run with them.

    Args:
        module: of the thinned network.
        prefix: what the names of its tensors begin with.
        graph: of the dense network.
        keep: `[ids]` whether each id stays.
    """
    if isinstance(module, WrittenForward):
        return  # it is written anew
    if isinstance(module, nn.MultiheadAttention):
        if any(axis.tensor.startswith(prefix) and not bool(keep[axis.ids].all()) for axis in graph.axes):
            attention.make_prunable(module)
            attention.update_sizes(module)
            attention.restore_class(module)  # type: ignore[arg-type]
        return
    if not isinstance(module, nn.RNNBase):
        return
    stays = {axis.tensor.removeprefix(prefix): keep[axis.ids] for axis in graph.axes if axis.dim == 1}
    if all(bool(rows.all()) for rows in stays.values()):
        return
    # Columns of weight_hh are outputs; of weight_hr, which comes last where there is one, hidden units.
    outputs, hidden = (
        {
            divmod(i, 2 if module.bidirectional else 1): stays[names[at]].nonzero().flatten()
            for i, names in enumerate(module._all_weights)
            if names[at] in stays
        }
        for at in (1, -1 if module.proj_size else 1)
    )
    if not isinstance(module, recurrent.Prunable):
        try:
            recurrent_axes.update_sizes(module)
        except ValueError:  # layers of different widths
            recurrent.make_prunable(module)
    if isinstance(module, recurrent.Prunable):
        recurrent_axes.update_sizes(module, hidden=hidden, projected=outputs)


def _set_counts(module: nn.Module, before: torch.Size, after: torch.Size) -> None:
    """Writes the numbers of channels that stay into the attributes in which a layer states them.

    Args:
        module: whose tensors have been cut.
        before: shape of its input.
        after: shape of its output.
    """
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        axis = len(before) - module.weight.dim() + 1
        if module.groups == module.in_channels:
            module.groups = before[axis]
        module.in_channels, module.out_channels = before[axis], after[axis]
    elif isinstance(module, nn.Linear):
        module.in_features, module.out_features = before[-1], after[-1]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = after[-1]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(before[-len(module.normalized_shape) :])
    elif isinstance(module, nn.GroupNorm):
        if whole_groups(module.num_groups, module.num_channels):
            module.num_groups = module.num_groups * before[1] // module.num_channels
        module.num_channels = before[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif hasattr(module, "num_features"):
        module.num_features = before[1]  # type: ignore[assignment]
