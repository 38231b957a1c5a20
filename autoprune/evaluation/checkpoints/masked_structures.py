"""Whole channels and branches among what masks hold at zero: removed, as nothing would be missed of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autoprune.evaluation.checkpoints.reshape import ReshapedNetwork
from autoprune.graph.branches import find_branches
from autoprune.graph.groups import ChannelGraph, Kept, find_groups
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.modules.weight_norm import find_weight_norms
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.surgery.provenance import note_provenance, provenance_of


def thin_masked(network: nn.Module, inputs: Any) -> nn.Module:
    """Returns a network without the channels and branches of which everything is masked.

    What is masked otherwise stays so. Layer, RMS and group norms are taken over the channels that stay, as they were
    while these were pruned, so that of a network with such norms the outputs differ from the masked one's.

    Args:
        network: left as it is; its masks are those noted on it.
        inputs: samples as it takes them, see `ModelInputs.of`.

    Raises:
        ThinningError: an output of the smaller network differs from the masked one's.
    """
    found = ReshapedNetwork(network, ModelInputs.of(inputs), (), provenance_of(network).masks)
    if kept := _unmasked(network, find_groups(network, inputs), found.masks):
        found = found.thinned(kept)
    if branches := _masked_branches(found):
        found = found.without(branches)
    if not found.shapes:
        return network
    note_provenance(found.network, replace(provenance_of(found.network), masks=found.masks))
    return found.network.eval()


def _unmasked(network: nn.Module, graph: ChannelGraph, masks: Masks) -> Kept:
    """Returns the structures that are not masked whole, of each group in which some are; not where all would go."""
    scales = {(norm.direction, norm.dim): norm.scale for norm in find_weight_norms(network)}
    parameters, kept = dict(network.named_parameters()), {}
    for group in graph.groups:
        alive = torch.zeros(group.group.width, dtype=torch.bool)
        for tensor, dim, rows in graph.tensor_rows(group.name):
            name = scales.get((tensor, dim), tensor)
            if name in masks:
                along = masks[name].movedim(dim, 0).reshape(masks[name].shape[dim], -1).any(1).cpu()
                alive |= along[rows].any(1)
            elif name in parameters:
                alive[:] = True
        if bool(alive.any()) and not bool(alive.all()):
            kept[group.name] = tuple(alive.nonzero().flatten().tolist())
    return kept


def _masked_branches(found: ReshapedNetwork) -> list[str]:
    """Returns the names of the branches of which every parameter is masked whole."""
    parameters = dict(found.network.named_parameters())
    gone = {name for name, mask in found.masks.items() if not bool(mask.any())}
    if not gone:
        return []
    branches = find_branches(found.network, find_groups(found.network, found.inputs))
    held = {branch.name: [name for name in branch.tensors if name in parameters] for branch in branches}
    return [branch for branch, names in held.items() if names and gone.issuperset(names)]
