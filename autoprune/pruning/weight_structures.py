"""Structures of single weights, blocks and N:M: parts of any of a network's parameters, which are set to zero."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.core.costs import CostTable, CostTerm, Count
from autoprune.core.space import Group
from autoprune.errors import UserError
from autoprune.graph.costs import measure_costs
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Criterion, LayerStatistics
from autoprune.pruning.patterns import Pattern
from autoprune.pruning.structures import Structures
from autoprune.pruning.surgery.masks import Importance, Masks, Widths, masked_copy, top_k_mask
from autoprune.pruning.surgery.provenance import joined_masks, note_provenance, provenance_of
from autoprune.pruning.weight_uses import Weight, find_weights

log = logging.getLogger(__name__)

# Widths of one weight that a search distinguishes at most: finer steps change nothing measurable.
STEPS = 256


@dataclass(frozen=True)
class WeightGroup:
    """One weight and how it falls into `choices` rows of `group.width` structures of `entries` weights.

    Attributes:
        uncounted: why nothing can be said of its multiply-adds; empty where they are known.
        left: `[width]` which of the pattern's structures these are, where some are held at zero; None: all.
    """

    group: Group
    layer: Layer
    choices: int
    entries: int
    uncounted: str = ""
    left: Tensor | None = None

    @property
    def parameter(self) -> str:
        return self.layer.weight_name


@dataclass(frozen=True)
class WeightStructures(Structures):
    """Parts of single weights, to be set to zero; the network's graph is not needed.

    Attributes:
        held: by kind of cost, what weights that are held at zero would add; those in a structure of which a part is not
            are left out, so that they count as they are.
    """

    weights: tuple[WeightGroup, ...]
    held: Mapping[str, int] = field(default_factory=dict)

    @property
    def layers(self) -> Sequence[Layer]:
        """The layers of the weights, in the order in which they are used."""
        return [found.layer for found in self.weights]

    @property
    def uncounted(self) -> Mapping[str, str]:
        """Parameters of which the multiply-adds are not known, so that they count as they are, and why."""
        return {found.parameter: found.uncounted for found in self.weights if found.uncounted}

    def __getitem__(self, name: str) -> WeightGroup:
        for found in self.weights:
            if found.group.name == name:
                return found
        names = ", ".join(group.name for group in self.groups) or "none"
        raise UserError(f"pattern {self.pattern.name!r} has no group {name!r}; it has {names}")

    def _score(self, group: str, layer: Layer, criterion: Criterion, statistics: LayerStatistics) -> Tensor | None:
        found, scores = self[group], criterion.score(statistics)
        if scores is not None and found.left is not None:
            scores = scores[found.left.to(scores.device)]
        return scores if scores is None or found.choices == 1 else scores.view(found.choices, found.group.width)

    def absent(self, masks: Masks) -> dict[str, NDArray[np.bool_]]:
        """Returns which structures masks hold at zero whole, of each group in which some are.

        Args:
            masks: parameter name to a boolean mask of the shape of its parameter, true where it stays.

        Returns:
            Group name to `[width]` or `[choices, width]`.
        """
        found = {}
        for each in self.weights:
            if each.parameter in masks:
                there = self._entries(each, masks[each.parameter]).any(-1).cpu().numpy()
                found[each.group.name] = ~(there[0] if each.choices == 1 else there)
        return {name: gone for name, gone in found.items() if gone.any()}

    def _entries(self, found: WeightGroup, tensor: Tensor) -> Tensor:
        """Returns what of a tensor of a weight's shape is in each structure, `[choices, width, entries]`."""
        entries = self.pattern.arrange(found.layer, tensor)
        return entries if found.left is None else entries[:, found.left.to(entries.device)]

    def masks(self, network: nn.Module, importance: Importance, widths: Widths) -> Masks:
        """Builds masks of the weights that hold structures that go, exactly counted.

        Args:
            network: of the architecture that was scored; its weights give the masks' shapes.
            importance: group name to `[width]` or `[choices, width]` scores.
            widths: how many structures stay of each group, or of each of its choices.
        """
        masks = {}
        for name, keep in widths.items():
            found = self[name]
            if keep < found.group.width:
                stays = torch.from_numpy(top_k_mask(importance[name], keep, found.group.least))
                masks[found.parameter] = self.spread(found, stays, network.get_parameter(found.parameter), True)
        return masks

    def spread(self, found: WeightGroup, values: Tensor, weight: Tensor, rest: float) -> Tensor:
        """Spreads one value for each structure over the entries of a weight.

        Args:
            found: the weight's group.
            values: `[choices, width]`.
            weight: gives the shape of the result.
            rest: the value of entries that no structure holds.
        """
        numbered = torch.arange(weight.numel(), device=weight.device).view(weight.shape)
        entries = self._entries(found, numbered)
        whole = torch.full((weight.numel(),), rest, dtype=values.dtype, device=weight.device)
        whole[entries.flatten()] = values.to(weight.device).reshape(-1, 1).expand(-1, entries.shape[-1]).flatten()
        return whole.view(weight.shape)

    def prune(self, network: nn.Module, importance: Importance, widths: Widths, check_on: Any = None) -> nn.Module:
        """Builds a copy of the network in which the structures that go are zero; all shapes stay.

        Args:
            network: of the architecture that was scored.
            importance: group name to `[width]` or `[choices, width]` scores.
            widths: how many structures stay of each group, or of each of its choices.
            check_on: inputs; not used, as the copy is the masked network itself.
        """
        provenance = provenance_of(network)
        masks = joined_masks(provenance.masks, self.masks(network, importance, widths))
        masked = masked_copy(network, masks)
        note_provenance(masked, replace(provenance, masks=masks))
        return masked

    def cost_table(self, network: nn.Module, inputs: Any) -> CostTable:
        """Builds the effective costs: a zeroed weight counts neither as a parameter nor wherever it is multiplied.

        Where that is not known (see `WeightGroup.uncounted`) its multiply-adds stay, as if none of them were saved.

        Args:
            network: of this architecture.
            inputs: whatever it takes, see `ModelInputs.of`; only the first sample is used.
        """
        dense = self._without_held(measure_costs(network, inputs))
        terms = []
        for found in self.weights:
            weights, width = found.choices * found.entries, Count(0, {found.group.name: 1})
            for kind, factor in (("params", weights), ("flops", 2 * found.layer.positions * weights)):
                terms.append(CostTerm(kind, found.layer.name, factor, width))  # type: ignore[arg-type]
                dense[kind] -= factor * found.group.width
        rest = [CostTerm(kind, "(everything else)", cost) for kind, cost in dense.items()]  # type: ignore[arg-type]
        return CostTable([*terms, *rest], {group.name: group.width for group in self.groups}, effective=True)

    def measure(self, pruned: nn.Module, inputs: Any, importance: Importance, widths: Widths) -> dict[str, int]:
        """Counts on a pruned network what `cost_table` predicts: weights that were pruned and are zero do not count.

        Args:
            pruned: from `prune` with the same scores and widths, perhaps trained further.
            inputs: whatever it takes, see `ModelInputs.of`.
            importance: scores of the structures.
            widths: how many structures stay of each group.
        """
        costs = self._without_held(measure_costs(pruned, inputs))
        masks = self.masks(pruned, importance, widths)
        for found in self.weights:
            if found.parameter in masks:
                zero = pruned.get_parameter(found.parameter).detach() == 0
                gone = int((~masks[found.parameter] & zero).sum())
                costs["params"] -= gone
                costs["flops"] -= 2 * found.layer.positions * gone
        return costs

    def _without_held(self, costs: Mapping[str, int]) -> dict[str, int]:
        return {kind: cost - self.held.get(kind, 0) for kind, cost in costs.items()}


def find_weight_structures(
    network: nn.Module, inputs: Any, pattern: Pattern, held: Masks | None = None
) -> WeightStructures:
    """Finds a pattern's structures in each weight by itself; a weight that several layers share is one.

    A weight that holds no structure that could go is left out. Those of which the multiply-adds are not known are named
    in the log.

    Args:
        network: is left as it is.
        inputs: whatever it takes, see `ModelInputs.of`; it runs on the first sample.
        pattern: the shape of what is removed.
        held: masks of weights that are zero for good. Structures of which nothing else is left are no part of a group;
            nor is a weight of which every choice of N:M has lost as many as it can.

    Raises:
        TaskError: the network cannot run on the inputs.
    """
    weights, masks = find_weights(network, inputs), held or {}
    used = [weight.layer.name for weight in weights if weight.used]
    found = []
    for weight in weights:
        layer = weight.layer
        tensor = network.get_parameter(layer.weight_name).detach().to("meta")
        choices, width, entries = pattern.arrange(layer, tensor).shape
        left = None
        if layer.weight_name in masks:
            there = pattern.arrange(layer, masks[layer.weight_name].cpu()).any(-1)
            if choices == 1:
                left = there[0].nonzero().flatten()
                width = len(left)
            elif int(there.sum(1).max()) <= pattern.least:
                continue
        if choices == 0 or entries == 0 or width <= pattern.least:
            continue
        group = Group(
            layer.name,
            width,
            (layer.name,),
            (layer.type,),
            first=layer.name == used[0],
            last=layer.name == used[-1],
            least=pattern.least,
            grain=max(pattern.grain, -(-width // STEPS)),
            parameter=layer.weight_name,
        )
        found.append(WeightGroup(group, layer, choices, entries, weight.uncounted, left))
    structures = WeightStructures(pattern, None, tuple(weight.group for weight in found), tuple(found))
    if masks:
        structures = replace(structures, held=_held_costs(structures, weights, masks))
    for name, reason in structures.uncounted.items():
        log.info("%s: its multiply-adds are not known and count as they are: %s", name, reason)
    return structures


def _held_costs(structures: WeightStructures, weights: Sequence[Weight], masks: Masks) -> dict[str, int]:
    """Returns, by kind, what entries that are masked would cost, but those in structures that are searched."""
    inside = {
        found.parameter: int((~structures._entries(found, masks[found.parameter])).sum())
        for found in structures.weights
        if found.parameter in masks
    }
    positions = {weight.layer.weight_name: weight.layer.positions for weight in weights}
    gone = {name: int((~mask).sum()) - inside.get(name, 0) for name, mask in masks.items()}
    flops = sum(2 * positions.get(name, 0) * count for name, count in gone.items())
    return {"params": sum(gone.values()), "flops": flops}
