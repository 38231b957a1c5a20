"""Networks of earlier trials that candidates start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.core.trial import Candidate
from autoprune.errors import AutopruneError, CheckpointError
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, read_checkpoint, rebuild_from
from autoprune.evaluation.checkpoints.reshape import kept_by_group, reshape
from autoprune.evaluation.prunable_model import PrunableModel, ScoredModels
from autoprune.graph.layers import Layer
from autoprune.graph.modules.weight_norm import forget_weight_norms
from autoprune.pruning.criteria.base import LayerStatistics
from autoprune.pruning.criteria.magnitudes import THRESHOLD
from autoprune.pruning.surgery.checking import check_same_outputs, check_thinned
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masks import masked_copy, top_k_mask
from autoprune.pruning.surgery.provenance import PrunedShape


class WiderThanParent(AutopruneError):
    """A candidate keeps more of a group than its parent has."""


class Parents:
    """The networks that candidates start from: the dense one, or an earlier trial's, of which the last is kept.

    Args:
        dense: what the trials were pruned from.
        folder: where trials leave their networks as `<number>.pt`; None where they leave none.
    """

    def __init__(self, dense: PrunableModel, folder: Path | None) -> None:
        self._dense, self._folder = ScoredModels(dense), folder
        self._last: tuple[int, ScoredModels] | None = None

    def start_of(self, candidate: Candidate) -> PrunableModel:
        """Returns the network that a candidate starts from, with the scores that its settings choose.

        Raises:
            CheckpointError: the parent's file is missing, damaged or of another network.
            WiderThanParent: the candidate keeps more of a group than the parent has.
        """
        if candidate.parent is None:
            return self._dense.under(candidate.settings)
        if self._last is None or self._last[0] != candidate.parent:
            self._last = None  # two of them need not fit into memory
            parent = self._read(candidate.parent).scored_by(self._dense.base.pruner)
            self._last = candidate.parent, ScoredModels(parent)
        _check_widths(candidate, self._last[1].base)
        return self._last[1].under(candidate.settings)

    def _read(self, number: int) -> PrunableModel:
        path = None if self._folder is None else self._folder / f"{number}.pt"
        if path is None or not path.is_file():
            raise CheckpointError(
                f"the weights of the parent, trial {number}, are gone: there is no {path or 'folder of weights'}"
            )
        checkpoint = read_checkpoint(path)
        if checkpoint is None:
            raise CheckpointError(f"the parent's {path} is damaged or no pruned checkpoint of autoprune")
        return restore_parent(self._dense.base, checkpoint)


def _check_widths(candidate: Candidate, prunable: PrunableModel) -> None:
    keep = {group.name: group.width for group in prunable.structures.groups} | dict(candidate.allocation)
    wider = [f"{name} ({keep[name]} of {left})" for name, left in prunable.left().items() if keep[name] > left]
    if wider:
        raise WiderThanParent(
            f"candidate {candidate.number} keeps more than its parent, trial {candidate.parent}, has left of group "
            f"{', '.join(wider)}; a child's widths are at most its parent's"
        )


def restore_parent(dense: PrunableModel, checkpoint: PrunedCheckpoint) -> PrunableModel:
    """Returns a checkpoint's network in the shape of the dense one that it was pruned from, what it lost set to zero.

    It computes what the checkpoint's network computes. What it has left is not scored yet: all scores are equal.

    Raises:
        CheckpointError: the checkpoint is of another network or pattern.
        ThinningError: the two networks do not compute the same.
    """
    if checkpoint.pattern != dense.pruner.pattern.name:
        raise CheckpointError(
            f"the checkpoint was pruned by pattern {checkpoint.pattern!r}, not {dense.pruner.pattern.name!r}"
        )
    small = rebuild_from(dense.network, dense.source, checkpoint)  # refuses what does not fit
    network = _spread(dense, checkpoint)
    lost = _lost(dense, network, checkpoint)
    importance = {group.name: np.zeros_like(dense.importance[group.name]) for group in dense.structures.groups}
    whole = replace(dense, network=network, lost=lost, importance=importance)
    prunable = replace(
        whole, network=masked_copy(network, whole.lost_masks()), importance=whole.without_lost(importance)
    )
    if dense.pruner.pattern.coupled:
        kept = prunable.structures.kept_channels(prunable.importance, prunable.left())
        check_thinned(small, prunable.network, dense.graph, kept, dense.inputs)
    else:
        check_same_outputs(small, prunable.network, dense.inputs)
    return prunable


def _spread(dense: PrunableModel, checkpoint: PrunedCheckpoint) -> nn.Module:
    """Returns a copy of the dense network with the checkpoint's entries where they came from."""
    kept = [PrunedShape((), shape.kept) for shape in checkpoint.lost_since(dense.network)]
    indices = reshape(_numbered(dense.network), dense.source, kept).state_dict()
    network = copy_network(dense.network)
    state = network.state_dict()
    with torch.no_grad():
        for name, found in checkpoint.state_dict.items():
            if state[name].is_floating_point():
                entries = state[name].flatten().clone()
                entries[indices[name].flatten().long()] = found.to(entries).flatten()
                state[name].copy_(entries.view(state[name].shape))
            else:
                state[name].copy_(found)
    return network


def _numbered(network: nn.Module) -> nn.Module:
    """Returns a copy whose tensors hold the number of each of their entries, which double precision has exactly."""
    twin = copy_network(network)
    forget_weight_norms(twin)
    for tensor in twin.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = torch.arange(tensor.numel(), dtype=torch.float64, device=tensor.device).view(tensor.shape)
    return twin


def _lost(dense: PrunableModel, network: nn.Module, checkpoint: PrunedCheckpoint) -> dict[str, NDArray[np.bool_]]:
    """Returns which structures the checkpoint's network is without, for each group that lost some."""
    pattern = dense.pruner.pattern
    shape = next(iter(checkpoint.lost_since(dense.network)), PrunedShape())  # a trial is pruned at once
    if pattern.whole:
        present: Mapping[str, NDArray[np.bool_]] = {name: np.array([False]) for name in shape.removed}
    elif pattern.coupled:
        widths = {part.name: part.width for group in dense.structures.groups for part in group.each}
        by_group = kept_by_group(dense.graph, shape.kept)
        present = {name: np.isin(np.arange(widths[name]), kept) for name, kept in by_group.items()}
        gone = dense.structures.members(shape.removed)
        present |= {name: np.zeros(widths[name], dtype=np.bool_) for name in gone}
        whole = {name: np.ones(width, dtype=np.bool_) for name, width in widths.items()}
        present = dense.structures.by_group({**whole, **present})
    else:
        present = _nonzero(dense, network, checkpoint.widths)
    return {name: ~there for name, there in present.items() if not there.all()}


def _nonzero(dense: PrunableModel, network: nn.Module, widths: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Returns which parts of each weight were not set to zero; a part that is zero by chance counts as present.

    Raises:
        CheckpointError: there are more of them than the widths say.
    """

    def statistics_of(layer: Layer) -> LayerStatistics:
        weight = network.get_parameter(layer.weight_name).detach()
        return LayerStatistics(layer.name, dense.pruner.pattern.arrange(layer, weight.double()).flatten(0, 1))

    found = {}
    for group in dense.structures.groups:
        keep = widths.get(group.name, group.width)
        (scores,) = dense.structures.layer_scores(group.name, THRESHOLD, statistics_of)
        largest = scores.cpu().numpy()
        found[group.name] = top_k_mask(largest, keep, group.least)
        if largest[~found[group.name]].any():
            raise CheckpointError(
                f"the checkpoint has more of group {group.name!r} than {keep} parts that are not zero"
            )
    return found
