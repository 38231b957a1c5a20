"""ADMM: training pulled towards a copy of the weights that is already pruned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.core.allocation import Allocation
from autoprune.core.space import Group
from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph
from autoprune.graph.layers import Layer
from autoprune.pruning.allocators import UNIFORM
from autoprune.pruning.criteria.base import Criterion, LayerStatistics
from autoprune.pruning.patterns import Pattern, parse_pattern
from autoprune.pruning.pruner import find_structures
from autoprune.pruning.surgery.masks import Importance, Masks, Widths, build_masks
from autoprune.pruning.surgery.provenance import provenance_of
from autoprune.pruning.training.masking import Masking
from autoprune.pruning.training.targets import amounts_by_group, check_widths, matching_groups

Weights = Mapping[str, Tensor]
"""Parameter name to a tensor of its shape."""


def squared_norm(statistics: LayerStatistics) -> Tensor:
    """Returns the sum of squared weights of each structure, `[structures]`."""
    return statistics.weight.square().sum(1)


_SQUARED = Criterion("squared_norm", squared_norm)


class Admm:
    """ADMM: weights are drawn to a pruned copy of themselves, with exact counts, while they train.

    The loss gets rho/2 · ‖W − Z + U‖². Every `frequency` steps Z becomes the projection of W + U onto the weights with
    the asked widths: of every group the structures with the highest Euclidean norm stay, the others are zero. Then U
    grows by W − Z. At first Z is the projection of W, and U is zero. Between two projections training must get to bring
    W near Z − U, else U grows until Z holds other structures: rho · rate/(1 − momentum) · frequency should be about 1
    or above. With momentum W swings about Z − U where 4 · rho · rate is above (1 − momentum)², and the projection may
    come when it is on the far side: then take a smaller rho or momentum.

    Of pattern `filter` a structure is a channel in all layers that make it, so that it goes from all of them or none.
    What uses the channel is left free while training: only `finish` zeroes its inputs, biases and batch norms too.

    Source: Zhang et al. 2018, arXiv:1804.03294; the scaled form of Boyd et al. 2011 (Distributed Optimization and
    Statistical Learning via ADMM), section 3.1.1. With filters as in AutoCompress, Liu et al. 2019, arXiv:1907.03141;
    here they are coupled ones.

    Args:
        network: the one that is trained; only `finish` masks its weights, in place.
        source: what `find_groups` found in the network, or samples as it takes them.
        pattern: its name, or itself.
        amount: the sparsity of every group. A mapping gives sparsities to shell patterns of groups or layers; later
            ones win, and groups that match none stay as they are.
        widths: group → kept width, as a search found it, instead of `amount`.
        layers: shell patterns of the groups.
        rho: how strongly weights are drawn.
        frequency: steps between the projections.
        masking: shared with other prunings of the network. Masks are held there after `finish`.

    Raises:
        UserError: a name matches no group, or a number is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        source: ChannelGraph | Any,
        pattern: str | Pattern,
        amount: float | Mapping[str, float] | None = None,
        *,
        widths: Widths | None = None,
        layers: Sequence[str] = ("*",),
        rho: float = 0.01,
        frequency: int = 100,
        masking: Masking | None = None,
    ) -> None:
        if not (math.isfinite(rho) and rho > 0) or frequency < 1:
            raise UserError(f"ADMM takes a rho above 0 and a frequency of 1 or more steps, not {rho} and {frequency}")
        self.masking = masking or Masking(network)
        self._network = network
        self._rho, self._frequency = rho, frequency
        self._pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
        self._structures = find_structures(network, source, self._pattern, provenance_of(network).masks)
        groups = matching_groups(self._structures.groups, layers)
        self.widths = _target_widths(groups, amount, widths)
        producers = {name for group in groups if group.name in self.widths for name in group.producers}
        layers_of = (layer for layer in self._structures.layers if layer.name in producers)
        self._names = list(dict.fromkeys(layer.weight_name for layer in layers_of))
        self._passed = 0
        weights = self._weights()
        self._projected = self._project(weights)
        self._dual = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def term(self) -> Tensor:
        """Returns rho/2 · ‖W − Z + U‖², a scalar `[]` to add to the loss of a batch."""
        squares = [
            (self._network.get_parameter(name) - self._projected[name] + self._dual[name]).square().sum()
            for name in self._dual
        ]
        return self._rho / 2 * torch.stack(squares).sum()

    def step(self, rate: float) -> None:
        """Follows a step of the optimizer, whatever its rate: makes a dual step every `frequency` of them."""
        self._passed += 1
        if self._passed % self._frequency == 0:
            self.update()
        self.masking.hold()

    def update(self) -> None:
        """Projects W + U, and then makes the dual step."""
        weights = self._weights()
        self._projected = self._project({name: weight + self._dual[name] for name, weight in weights.items()})
        for name, weight in weights.items():
            self._dual[name] = self._dual[name] + weight - self._projected[name]

    def importance(self) -> Importance:
        """Returns group name to `[structures]` scores by the present weights: the highest stay in hard pruning."""
        return self._importance(self._weights())

    def masks(self) -> Masks:
        """Returns the masks of hard pruning of the present weights: exact counts, whole channels everywhere.

        Returns:
            Parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, true where it
            stays; only parameters of which something goes.
        """
        return self._structures.masks(self._network, self.importance(), self.widths)

    def finish(self) -> Masks:
        """Masks, in place, what the projection of the present weights leaves out.

        Returns:
            Those of `masks`: parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`.
        """
        masks = self.masks()
        self.masking.set(self, masks)
        return masks

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of steps, and Z and U by parameter name."""
        return {"passed": self._passed, "projected": dict(self._projected), "dual": dict(self._dual)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave."""
        self._passed, weights = state["passed"], self._weights()
        self._projected = {name: state["projected"][name].to(weight) for name, weight in weights.items()}
        self._dual = {name: state["dual"][name].to(weight) for name, weight in weights.items()}

    def _weights(self) -> Weights:
        return {name: self._network.get_parameter(name).detach() for name in self._names}

    def _project(self, weights: Weights) -> dict[str, Tensor]:
        importance = self._importance(weights)
        graph = self._structures.graph
        if self._pattern.coupled and graph is not None:  # the inputs of a channel's users are not part of it
            kept = self._structures.kept_channels(importance, self.widths)
            masks: Masks = build_masks(self._network, graph, kept, sides=("out",))
            gone = self._structures.removed_layers(self.widths)
            whole = (name for name in weights if name.rpartition(".")[0] in gone)
            masks = {**masks, **{name: torch.zeros_like(weights[name], dtype=torch.bool) for name in whole}}
        else:
            masks = self._structures.masks(self._network, importance, self.widths)
        return {name: weight * masks[name] if name in masks else weight.clone() for name, weight in weights.items()}

    def _importance(self, weights: Weights) -> Importance:
        """Returns group name to the Euclidean norms of its structures, over all layers that make them."""

        def statistics_of(layer: Layer) -> LayerStatistics:
            arranged = self._pattern.arrange(layer, weights[layer.weight_name].double())
            return LayerStatistics(layer.name, arranged.flatten(0, 1))

        names = [part.name for group in self._structures.groups if group.name in self.widths for part in group.each]
        squares = {name: self._structures.layer_scores(name, _SQUARED, statistics_of) for name in names}
        norms = {name: torch.stack(parts).sum(0).sqrt().cpu().numpy() for name, parts in squares.items()}
        return self._structures.by_group(norms)


def _target_widths(
    groups: Sequence[Group], amount: float | Mapping[str, float] | None, widths: Widths | None
) -> Allocation:
    """Returns the kept width of each group that is pruned."""
    if (amount is None) == (widths is None):
        raise UserError("ADMM needs a sparsity (0.5, say) or the widths to prune to: one of both")
    if widths is not None:
        check_widths(groups, widths)
        return Allocation(widths)
    assert amount is not None  # one of both is given
    amounts = amounts_by_group(groups, amount if isinstance(amount, Mapping) else {"*": amount})
    pruned = [group for group in groups if group.name in amounts]
    return Allocation({group.name: UNIFORM.widths([group], {}, amounts[group.name])[group.name] for group in pruned})
