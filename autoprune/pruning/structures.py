"""Structures: what a pattern finds in a network to remove, and how an allocation of it is pruned and costed.

Output channels of coupled layers are thinned away, residual branches go whole; `weight_structures` sets parts of single
weights to zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.core.costs import CostTable
from autoprune.core.space import Group, as_one, equal_sets
from autoprune.graph.branches import (
    Branch,
    build_branch_costs,
    build_depth_costs,
    find_branches,
    find_kinds,
    inner_groups,
    judge_branches,
)
from autoprune.graph.costs import build_cost_table, measure_costs
from autoprune.graph.groups import ChannelGraph, Kept
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Criterion, LayerStatistics, StatisticsFn
from autoprune.pruning.patterns import Pattern
from autoprune.pruning.surgery.branch_removal import (
    branch_masks,
    check_without_branches,
    explain_failures,
    remove_branches,
    without_branches,
)
from autoprune.pruning.surgery.checking import check_on_fresh_inputs
from autoprune.pruning.surgery.masks import (
    Importance,
    Masks,
    Widths,
    build_masks,
    choose_kept,
    masked_copy,
)
from autoprune.pruning.surgery.provenance import PrunedShape, kept_by_layer, note_change
from autoprune.pruning.surgery.thinning import thin

_Value = TypeVar("_Value", bound=np.generic)


@dataclass(frozen=True)
class Structures(ABC):
    """A network's groups under one pattern.

    Attributes:
        pattern: the shape of what is removed.
        graph: what `find_groups` found in the network; None where the pattern needs no graph.
        groups: in forward order.
    """

    pattern: Pattern
    graph: ChannelGraph | None
    groups: tuple[Group, ...]

    @property
    def layers(self) -> Sequence[Layer]:
        """The network's layers, in forward order."""
        return self.graph.layers if self.graph is not None else ()

    @property
    def reasons(self) -> list[str]:
        """Why what cannot be pruned stays, a line each."""
        if self.graph is not None:
            return self.graph.reasons()
        return [] if self.groups else [f"no weight holds structures of pattern {self.pattern.name!r} that could go"]

    @property
    def scored_layers(self) -> Sequence[Layer]:
        """The layers by whose weights the groups can be scored, in forward order."""
        producers = {name for group in self.groups for name in group.producers}
        return [layer for layer in self.layers if layer.name in producers]

    def layer_scores(self, group: str, criterion: Criterion, statistics_of: StatisticsFn) -> list[Tensor]:
        """Scores a group's structures by each of its layers that the criterion can score.

        Args:
            group: its name, or that of one of those that it stands for.
            criterion: scores one layer.
            statistics_of: returns what the criterion needs to know of a layer.

        Returns:
            `[width]` scores in double precision, or `[choices, width]` where there are several choices, by layer.
        """
        producers = next(part.producers for found in self.groups for part in found.each if part.name == group)
        layers = [layer for layer in self.layers if layer.name in producers]
        scores = [self._score(group, layer, criterion, statistics_of(layer)) for layer in layers]
        return [found.double() for found in scores if found is not None]

    def by_group(self, found: Mapping[str, NDArray[_Value]]) -> dict[str, NDArray[_Value]]:
        """Returns `[width]` values by group, of those made equally wide `[groups, width]`; others stay as they are."""
        return {
            group.name: np.stack([found[part.name] for part in group.parts]) if group.parts else found[group.name]
            for group in self.groups
            if group.each[0].name in found
        }

    def absent(self, masks: Masks) -> dict[str, NDArray[np.bool_]]:
        """Returns which structures masks hold at zero whole, of each group in which some are; of weights alone."""
        return {}

    @abstractmethod
    def _score(self, group: str, layer: Layer, criterion: Criterion, statistics: LayerStatistics) -> Tensor | None:
        """Returns a group's scores by one layer, in the shape of `layer_scores`, or None if it cannot be scored.

        Args:
            group: its name.
            layer: one of its producers.
            criterion: scores the layer.
            statistics: of the layer's rows, as the pattern arranges them.
        """

    def kept_channels(self, importance: Importance, widths: Widths) -> Kept:
        """Returns the channels that stay when the network is thinned; empty where only weights or branches go.

        Args:
            importance: group name to `[width]` scores; not read where only weights or branches go.
            widths: how many stay of each group.
        """
        return choose_kept(importance, widths) if self.pattern.coupled else {}

    @property
    def refused_branches(self) -> Mapping[str, str]:
        """Why residual branches cannot be removed, by their first layers; empty where none may be."""
        return {}

    @property
    def uncounted(self) -> Mapping[str, str]:
        """Parameters of which the multiply-adds are not known, so that they count as they are, and why."""
        return {}

    def removed_branches(self, widths: Widths) -> tuple[str, ...]:
        """Returns the names of the residual branches that go whole: the groups of which nothing is kept."""
        return tuple(group.name for group in self.groups if widths.get(group.name) == 0)

    def removed_layers(self, widths: Widths) -> frozenset[str]:
        """Returns the names of the layers in the branches that go whole."""
        return frozenset()

    def members(self, branches: Collection[str]) -> frozenset[str]:
        """Returns the groups of which nothing is left without the residual branches of these names."""
        return frozenset(branches)

    @abstractmethod
    def masks(self, network: nn.Module, importance: Importance, widths: Widths) -> Masks:
        """Builds the masks of an allocation, exactly counted.

        Args:
            network: of the architecture that was scored.
            importance: group name to `[width]` scores, or `[choices, width]` where there are several choices.
            widths: how many stay of each group.

        Returns:
            Parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, true where it
            stays; only parameters of which something goes.
        """

    @abstractmethod
    def prune(self, network: nn.Module, importance: Importance, widths: Widths, check_on: Any = None) -> nn.Module:
        """Builds a pruned copy of the network: thinned, without branches, or masked where only weights go.

        Args:
            network: of the architecture that was scored.
            importance: scores of the structures.
            widths: how many stay of each group.
            check_on: inputs (see `ModelInputs.of`) on which a smaller network is compared with the masked one.

        Raises:
            UserError: the widths do not fit the groups, or the network cannot be copied.
            ThinningError: an output of the smaller network differs from the masked one's.
        """

    def check_on_fresh_inputs(  # noqa: B027 - most patterns have nothing to check
        self, network: nn.Module, importance: Importance, widths: Widths, inputs: Any
    ) -> None:
        """Checks that what an allocation makes of a network is right: in both modes, on inputs drawn anew.

        Nothing is to be checked where only weights are set to zero.

        Args:
            network: that was scored.
            importance: scores of the structures.
            widths: how many stay of each group.
            inputs: see `ModelInputs.of`; drawn ones are in their range.

        Raises:
            ThinningError: an output of the smaller network differs from the masked one's.
        """

    @abstractmethod
    def cost_table(self, network: nn.Module, inputs: Any) -> CostTable:
        """Builds the costs of every allocation; *effective* ones where weights are set to zero.

        Effective costs leave out zeroed parameters and their multiply-adds; their bytes count, as zeros are stored.

        Args:
            network: of this architecture.
            inputs: whatever it takes, see `ModelInputs.of`.
        """

    def measure(self, pruned: nn.Module, inputs: Any, importance: Importance, widths: Widths) -> dict[str, int]:
        """Counts on a pruned network what `cost_table` predicts.

        Where weights are set to zero, those that were pruned and are zero do not count; zeros by chance do.

        Args:
            pruned: from `prune` with the same scores and widths, perhaps trained further.
            inputs: whatever it takes, see `ModelInputs.of`.
            importance: scores of the structures.
            widths: how many stay of each group.
        """
        return measure_costs(pruned, inputs)


@dataclass(frozen=True)
class ChannelStructures(Structures):
    """Output channels of coupled layers, to be thinned away, and perhaps residual branches to be removed with them.

    A branch is removed at width 0 of its *lead*, the first group that lies in it whole; the others in it are at 0 then,
    too. One without any has a group of width 1 of its own.

    Attributes:
        branches: by lead.
        refused: the first layer of each branch that cannot be removed, and why not; empty where none may be.
    """

    graph: ChannelGraph
    branches: Mapping[str, Branch] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def refused_branches(self) -> Mapping[str, str]:
        """Why residual branches cannot be removed, by their first layers; empty where none may be."""
        return self.refused

    @property
    def leads(self) -> dict[str, str]:
        """The groups that are removed with another one, and that one."""
        return {part.name: part.lead for group in self.groups for part in group.each if part.lead is not None}

    def kept_channels(self, importance: Importance, widths: Widths) -> Kept:
        """Returns the channels that stay when the network is thinned.

        Args:
            importance: group name to `[width]` scores, `[groups, width]` of those made equally wide.
            widths: how many stay of each group; those of branches that go whole do not count.
        """
        leads, known = self.leads, {group.name for group in self.graph.groups} | (set(widths) - set(self.branches))
        scores, own = dict(importance), dict(widths)
        for group in self.groups:
            if group.parts and group.name in widths:
                own |= {part.name: widths[group.name] for part in group.parts}
                scores |= zip((part.name for part in group.parts), importance[group.name], strict=True)
        there = {n: keep for n, keep in own.items() if n in known and not self._is_gone(leads.get(n, n), widths)}
        return choose_kept(scores, there)

    def _is_gone(self, lead: str, widths: Widths) -> bool:
        return lead in self.branches and widths.get(lead) == 0

    def _removed(self, widths: Widths) -> list[Branch]:
        return [branch for lead, branch in self.branches.items() if self._is_gone(lead, widths)]

    def removed_branches(self, widths: Widths) -> tuple[str, ...]:
        """Returns the names of the residual branches that go whole: those of which the lead keeps nothing."""
        return tuple(branch.name for branch in self._removed(widths))

    def removed_layers(self, widths: Widths) -> frozenset[str]:
        """Returns the names of the layers in the branches that go whole."""
        return frozenset(layer for branch in self._removed(widths) for layer in branch.layers)

    def members(self, branches: Collection[str]) -> frozenset[str]:
        """Returns the groups of which nothing is left without the residual branches of these names."""
        leads = {lead for lead, branch in self.branches.items() if branch.name in branches}
        return frozenset(group.name for group in self.groups if {group.name, group.lead} & leads)

    def _score(self, group: str, layer: Layer, criterion: Criterion, statistics: LayerStatistics) -> Tensor | None:
        """Scores structures as wholes: a head by all its rows of the layer, a hidden unit by those of all gates.

        A branch that is one structure has the mean of its layers' channels.
        """
        if group in self.branches and all(group != each.name for each in self.graph.groups):
            found = criterion.score(statistics)
            return None if found is None else found.mean(-1, keepdim=True)
        members = self.graph[group].members
        rows = next(member.rows for member in members if (member.layer, member.side) == (layer.name, "out"))
        return criterion.score(statistics.of_structures(rows))

    def masks(self, network: nn.Module, importance: Importance, widths: Widths) -> Masks:
        """Builds masks of the channels that go, in all that makes or uses them, and of branches that go whole.

        Args:
            network: of the architecture that was scored; its tensors give the masks' shapes.
            importance: group name to `[width]` scores.
            widths: how many channels stay of each group.
        """
        channels = build_masks(network, self.graph, self.kept_channels(importance, widths))
        return {**channels, **branch_masks(network, self._removed(widths))}

    def prune(self, network: nn.Module, importance: Importance, widths: Widths, check_on: Any = None) -> nn.Module:
        """Builds a copy of the network without the channels and branches that go.

        Args:
            network: of the architecture that was scored.
            importance: group name to `[width]` scores.
            widths: how many channels stay of each group.
            check_on: inputs on which the copy is compared with the masked network; None: it is not.
        """
        kept, removed = self.kept_channels(importance, widths), self._removed(widths)

        def change(dense: nn.Module) -> nn.Module:
            # Thinned first: the channels are those of the network that was scored.
            return without_branches(thin(dense, self.graph, kept), self.graph, removed, kept)

        smaller = change(network) if removed else thin(network, self.graph, kept, check_on)
        if removed and check_on is not None:
            check_without_branches(smaller, network, self.graph, removed, kept, check_on)
        shape = PrunedShape(tuple(branch.name for branch in removed), kept_by_layer(self.graph, kept))
        return note_change(network, smaller, shape, change)

    def check_on_fresh_inputs(self, network: nn.Module, importance: Importance, widths: Widths, inputs: Any) -> None:
        """Checks in both modes, on inputs drawn anew, that the network without channels and branches is right.

        Args:
            network: that was scored.
            importance: group name to `[width]` scores.
            widths: how many channels stay of each group.
            inputs: see `ModelInputs.of`; drawn ones are in their range.
        """
        kept, masks = self.kept_channels(importance, widths), branch_masks(network, self._removed(widths))
        masked = masked_copy(network, masks) if masks else network
        check_on_fresh_inputs(self.prune(network, importance, widths), masked, self.graph, kept, ModelInputs.of(inputs))

    def cost_table(self, network: nn.Module, inputs: Any) -> CostTable:
        """Builds the exact costs of the network at any widths; for `inputs` see `ModelInputs.of`."""
        if self.branches:
            table = build_depth_costs(network, self.graph, self.branches, self.leads, inputs)
        else:
            table = build_cost_table(network, self.graph, inputs)
        one = {part.name: group.name for group in self.groups for part in group.parts}
        return table.joined(one) if one else table


@dataclass(frozen=True)
class BranchStructures(Structures):
    """Residual branches, each a group of width 1, to be removed whole."""

    graph: ChannelGraph
    branches: tuple[Branch, ...]

    def _score(self, group: str, layer: Layer, criterion: Criterion, statistics: LayerStatistics) -> Tensor | None:
        return criterion.score(statistics)

    def masks(self, network: nn.Module, importance: Importance, widths: Widths) -> Masks:
        """Builds masks of everything in the branches that go, with which they add zero to their shortcuts.

        Args:
            network: of the architecture that was scored; its tensors give the masks' shapes.
            importance: group name to `[1]` scores; not used: a branch is a single structure.
            widths: 0 for each branch that goes.

        Returns:
            Name of each parameter in these branches to a boolean mask of its shape, e.g. `[out, in, kh, kw]`, false
            throughout.
        """
        gone = self.removed_branches(widths)
        return branch_masks(network, [branch for branch in self.branches if branch.name in gone])

    def prune(self, network: nn.Module, importance: Importance, widths: Widths, check_on: Any = None) -> nn.Module:
        """Builds a copy of the network in which the branches that go are replaced by their shortcuts.

        Args:
            network: of the architecture that was scored.
            importance: not used: a branch is a single structure.
            widths: 0 for each branch that goes.
            check_on: inputs on which the copy is compared with the masked network; None: it is not.
        """
        removed = self.removed_branches(widths)
        smaller = remove_branches(network, self.graph, removed, check_on)
        return note_change(
            network, smaller, PrunedShape(removed), lambda dense: remove_branches(dense, self.graph, removed)
        )

    def check_on_fresh_inputs(self, network: nn.Module, importance: Importance, widths: Widths, inputs: Any) -> None:
        """Checks in both modes, on inputs drawn anew, that the network without the branches is right.

        Args:
            network: that was scored.
            importance: not used.
            widths: 0 for each branch that goes.
            inputs: see `ModelInputs.of`; drawn ones are in their range.
        """
        masked = masked_copy(network, self.masks(network, importance, widths))
        check_on_fresh_inputs(self.prune(network, importance, widths), masked, self.graph, {}, ModelInputs.of(inputs))

    def cost_table(self, network: nn.Module, inputs: Any) -> CostTable:
        """Builds the exact costs of the network without any of its branches; `inputs` are not read."""
        return build_branch_costs(network, self.graph, self.branches)


def find_thinned_structures(
    network: nn.Module, graph: ChannelGraph, pattern: Pattern
) -> ChannelStructures | BranchStructures:
    """Finds the groups of a network under a pattern of channels or branches.

    Args:
        network: where branches go, its modules are looked at.
        graph: what `find_groups` found in the network.
        pattern: the shape of what is removed.
    """
    if not pattern.coupled:
        return _find_branches(network, graph, pattern)
    kinds = find_kinds(network, graph)
    groups = tuple(replace(group.group, kind=kinds.get(group.name, "")) for group in graph.groups)
    structures = ChannelStructures(pattern, graph, groups)
    sets = [[group.name for group in found] for found in equal_sets(groups, pattern.equal)]
    if pattern.depth:
        structures = _with_branches(network, structures, {name for names in sets for name in names})
    return _as_one(structures, sets)


def _as_one(structures: ChannelStructures, sets: Sequence[Collection[str]]) -> ChannelStructures:
    """Returns structures in which one group stands for those of each set, at the place of the first."""
    ones = [as_one([group for group in structures.groups if group.name in names]) for names in sets]
    first = {group.name: group for group in ones}
    others = {part.name for group in ones for part in group.parts[1:]}
    groups = tuple(first.get(group.name, group) for group in structures.groups if group.name not in others)
    return replace(structures, groups=groups)


def _with_branches(network: nn.Module, channels: ChannelStructures, equal: Collection[str]) -> ChannelStructures:
    """Finds the branches that can go with the groups of channels that lie in them.

    Args:
        network: its modules are looked at.
        channels: with the groups.
        equal: groups that are made equally wide with others, so that none of them says whether its branch goes.
    """
    graph, groups = channels.graph, {group.name: group for group in channels.groups}
    types = {layer.name: layer.type for layer in graph.layers}
    judged = judge_branches(network, graph)
    refused = dict(judged.refused)
    followed = [branch for branch in judged.branches if types.keys() & set(branch.weights)]
    refused |= {
        branch.name: "none of its layers is followed, so it cannot be scored"
        for branch in judged.branches
        if branch not in followed
    }
    refused |= explain_failures(network, graph, followed)
    branches: dict[str, Branch] = {}
    for branch in followed:
        if branch.name in refused:
            continue
        alone = replace(_branch_group(branch, types), name=_unused(branch.name, groups))
        inner = [groups[each.name] for each in inner_groups(branch, graph)]
        alone = replace(alone, kind=inner[0].kind if inner else "")
        lead, *others = inner if inner and not {group.name for group in inner} & set(equal) else [alone, *inner]
        branches[lead.name] = branch
        groups[lead.name] = replace(lead, least=0)
        groups |= {other.name: replace(other, least=0, lead=lead.name) for other in others}
    order = {layer.name: place for place, layer in enumerate(graph.layers)}
    found = sorted(groups.values(), key=lambda group: min(order[name] for name in group.producers if name in order))
    return replace(channels, groups=tuple(found), branches=branches, refused=refused)


def _unused(name: str, groups: Collection[str]) -> str:
    return name if name not in groups else f"{name}:branch"


def _find_branches(network: nn.Module, graph: ChannelGraph, pattern: Pattern) -> BranchStructures:
    """Finds the branches that can go; those of which no layer is followed cannot be scored, and stay."""
    types = {layer.name: layer.type for layer in graph.layers}
    branches = tuple(branch for branch in find_branches(network, graph) if types.keys() & set(branch.weights))
    return BranchStructures(pattern, graph, tuple(_branch_group(branch, types) for branch in branches), branches)


def _branch_group(branch: Branch, types: Mapping[str, str]) -> Group:
    return Group(branch.name, 1, branch.weights, tuple(types.get(name, "") for name in branch.weights), least=0)
