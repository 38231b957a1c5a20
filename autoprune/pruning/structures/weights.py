"""Parts of single layers' weights as structures, to be set to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoprune.core.costs import CostTable, CostTerm, Count
from autoprune.core.space import Group
from autoprune.errors import AutopruneError, UserError
from autoprune.graph.costs import measure_costs
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Criterion, StatisticsFn
from autoprune.pruning.patterns import Pattern
from autoprune.pruning.surgery.masks import Importance, Masks, masked_copy, top_k_mask

# Widths of one weight that a search distinguishes at most: finer steps change nothing measurable.
STEPS = 256


@dataclass(frozen=True)
class WeightGroup:
    """One layer's weight and how it falls into `choices` rows of `group.width` structures of `entries` weights."""

    group: Group
    layer: Layer
    choices: int
    entries: int

    @property
    def parameter(self) -> str:
        return self.layer.weight_name


@dataclass(frozen=True)
class WeightStructures:
    """Parts of single layers' weights, to be set to zero; see `Structures`."""

    pattern: Pattern
    found: tuple[WeightGroup, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(found.group for found in self.found)

    @property
    def scored_layers(self) -> Sequence[Layer]:
        return [found.layer for found in self.found]

    def __getitem__(self, name: str) -> WeightGroup:
        for found in self.found:
            if found.group.name == name:
                return found
        raise UserError(f"pattern {self.pattern.name!r} has no group {name!r}; it has {_names(self.groups)}")

    def layer_scores(self, group: str, criterion: Criterion, statistics_of: StatisticsFn) -> list[Tensor]:
        """Scores a weight's structures by the weight itself: `[width]`, or `[choices, width]` with several choices."""
        found = self[group]
        scores = criterion.score(statistics_of(found.layer))
        if scores is None:
            return []
        shape = (found.group.width,) if found.choices == 1 else (found.choices, found.group.width)
        return [scores.double().reshape(shape)]

    def masks(self, network: nn.Module, importance: Importance, allocation: Mapping[str, int]) -> Masks:
        parameters = dict(network.named_parameters())
        masks = {}
        for name, keep in allocation.items():
            found = self[name]
            if keep < found.group.width:
                stays = top_k_mask(importance[name], keep, found.group.least)
                masks[found.parameter] = self.spread(found, torch.from_numpy(stays), parameters[found.parameter], True)
        return masks

    def kept_channels(self, importance: Importance, allocation: Mapping[str, int]) -> Kept:
        return {}

    def removed_branches(self, allocation: Mapping[str, int]) -> tuple[str, ...]:
        return ()

    def spread(self, found: WeightGroup, values: Tensor, weight: Tensor, rest: float) -> Tensor:
        """Spreads one value for each structure over the entries of a weight.

        Args:
            found: the weight's group.
            values: `[choices, width]`.
            weight: gives the shape of the result.
            rest: the value of entries that no structure holds.
        """
        numbered = torch.arange(weight.numel(), device=weight.device).view(weight.shape)
        entries = self.pattern.arrange(found.layer, numbered)
        whole = torch.full((weight.numel(),), rest, dtype=values.dtype, device=weight.device)
        whole[entries.flatten()] = values.to(weight.device).reshape(-1, 1).expand(-1, entries.shape[-1]).flatten()
        return whole.view(weight.shape)

    def prune(
        self,
        network: nn.Module,
        importance: Importance,
        allocation: Mapping[str, int],
        check_on: Tensor | None = None,
    ) -> nn.Module:
        masks = self.masks(network, importance, allocation)
        for name, keep in allocation.items():
            found = self[name]
            gone = int((~masks[found.parameter]).sum()) if found.parameter in masks else 0
            if gone != (found.group.width - keep) * found.choices * found.entries:
                raise AutopruneError(f"the mask of {name} removes {gone} weights, which {keep} structures do not leave")
        return masked_copy(network, masks)

    def cost_table(self, network: nn.Module, inputs: Tensor) -> CostTable:
        """Builds costs in which zeroed parameters and their multiply-adds do not count; bytes do, zeros are stored."""
        dense = measure_costs(network, inputs)
        terms = []
        for found in self.found:
            weights, width = found.choices * found.entries, Count(0, {found.group.name: 1})
            for kind, factor in (("params", weights), ("flops", 2 * found.layer.positions * weights)):
                terms.append(CostTerm(kind, found.layer.name, factor, width))  # type: ignore[arg-type]
                dense[kind] -= factor * found.group.width
        rest = [CostTerm(kind, "(everything else)", cost) for kind, cost in dense.items()]  # type: ignore[arg-type]
        return CostTable([*terms, *rest], {group.name: group.width for group in self.groups}, effective=True)

    def measure(
        self, pruned: nn.Module, inputs: Tensor, importance: Importance, allocation: Mapping[str, int]
    ) -> dict[str, int]:
        """Counts weights as removed that were pruned and are zero; other zeros are so by chance and count as kept."""
        costs = measure_costs(pruned, inputs)
        parameters = dict(pruned.named_parameters())
        masks = self.masks(pruned, importance, allocation)
        for found in self.found:
            if found.parameter not in masks:
                continue
            gone = int((~masks[found.parameter] & (parameters[found.parameter].detach() == 0)).sum())
            costs["params"] -= gone
            costs["flops"] -= 2 * found.layer.positions * gone
        return costs


def find_weight_structures(network: nn.Module, graph: ChannelGraph, pattern: Pattern) -> WeightStructures:
    """Finds a pattern's structures in each layer by itself; weights that several layers share are not followed.

    Args:
        graph: what `find_groups` found in the network.
        pattern: the shape of what is removed.
    """
    layers = [layer for layer in graph.layers if layer.incoming is not None]
    found = [_weight_group(network, layer, pattern, layers) for layer in layers]
    return WeightStructures(pattern, tuple(group for group in found if group is not None))


def _weight(network: nn.Module, layer: Layer) -> Tensor:
    weight: Tensor = network.get_submodule(layer.name).weight  # type: ignore[assignment]
    return weight.detach()


def _weight_group(network: nn.Module, layer: Layer, pattern: Pattern, layers: Sequence[Layer]) -> WeightGroup | None:
    """Returns the group of a layer, or None where its weight holds no structure that could go."""
    choices, width, entries = pattern.arrange(layer, _weight(network, layer).to("meta")).shape
    if choices == 0 or entries == 0 or width <= pattern.least:
        return None
    group = Group(
        layer.name,
        width,
        (layer.name,),
        (layer.type,),
        first=layer is layers[0],
        last=layer is layers[-1],
        least=pattern.least,
        grain=max(pattern.grain, -(-width // STEPS)),
    )
    return WeightGroup(group, layer, choices, entries)


def _names(groups: Sequence[Group]) -> str:
    return ", ".join(group.name for group in groups) or "none"
