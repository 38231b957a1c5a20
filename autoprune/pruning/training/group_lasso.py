"""Group lasso: a penalty by which whole structures, layers or single weights go to zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph, inputs_of
from autoprune.pruning.patterns import ELEMENT, Pattern, parse_pattern
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.training.masking import Masking
from autoprune.pruning.training.penalties import check_strength
from autoprune.pruning.training.targets import matching_groups
from autoprune.pruning.weight_structures import WeightGroup, find_weight_structures

_MAGNITUDES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda entries: entries.abs().mean(-1),
    "max": lambda entries: entries.abs().amax(-1),
}


@dataclass(frozen=True)
class Thresholding:
    """A threshold at or below which a structure's magnitude counts as zero.

    Attributes:
        at: the threshold; the penalty's strength if None. At 0 only what is exactly zero goes.
        by: the mean or the largest absolute weight of the structure.
        every: steps between thresholdings; if None there is one, at the end.
    """

    at: float | None = None
    by: Literal["mean", "max"] = "mean"
    every: int | None = None

    def __post_init__(self) -> None:
        if self.at is not None and not (math.isfinite(self.at) and self.at >= 0):
            raise UserError(f"the threshold should be a number of at least 0 but is {self.at}")
        if self.by not in _MAGNITUDES:
            raise UserError(f"a structure's magnitude is its 'mean' or its 'max', not {self.by!r}")
        if self.every is not None and self.every < 1:
            raise UserError(f"thresholdings should be 1 step or more apart but are {self.every}")


class GroupLasso:
    """Group lasso: the Euclidean norms of all structures, times a strength; whole structures go to zero.

    The penalty is strength · Σ ‖w_g‖₂ over the structures g of every layer, of any pattern whose choice is free, and of
    `layer`, a layer's whole weight. Of `filter` the structures are each layer's own filters, not the channels that
    several layers share: weights are masked and shapes stay; pruner 'group_lasso' thins the channels that died.

    Source: Wen et al. 2016 (structured sparsity learning), arXiv:1608.03665, section 3, without regard to the
    structures' sizes, as there; Yuan and Lin 2006 (J. R. Stat. Soc. B 68) multiply each norm by the root of its size.
    Without that factor large structures hardly shrink in their mean magnitude, which is compared with the threshold.
    What training leaves below the threshold, by default the strength itself, is masked.

    A batch norm behind a layer compensates for smaller weights. So a layer may fall below the threshold while it still
    matters: threshold while there are steps left to recover, or train on after `finish` with the masks held. And
    weights that have shrunk but stay move faster, as 1/‖w‖² (van Laarhoven 2017, arXiv:1706.05350): penalise the layers
    that may go rather than all, and fine-tune at a lower rate.

    Args:
        network: the one that is trained; thresholding masks its weights in place.
        source: what `find_groups` found in the network, or samples as it takes them.
        pattern: its name, or itself.
        strength: above 0; per step a structure's norm shrinks by about strength · rate.
        layers: shell patterns of the layers' names.
        scale_by_size: whether each norm is multiplied by the root of its structure's number of weights.
        proximal: whether each step of the optimizer is followed by shrinking every norm by strength · rate, to zero at
            the least (Parikh and Boyd 2014, Proximal Algorithms, section 6.5), instead of adding the term to the
            loss, by whose subgradient norms only oscillate near zero. Not the default: the threshold catches what
            oscillates, far above it, and in front of a batch norm weights that are exactly zero can grow again.
        thresholding: when structures count as zero; by default at the end, at the strength.
        masking: shared with other prunings of the network. Masks are held there, after `finish` too.

    Raises:
        UserError: no layer matches, or a setting is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        source: ChannelGraph | Any,
        pattern: str | Pattern,
        strength: float,
        layers: Sequence[str] = ("*",),
        *,
        scale_by_size: bool = False,
        proximal: bool = False,
        thresholding: Thresholding | None = None,
        masking: Masking | None = None,
    ) -> None:
        self.masking = masking or Masking(network)
        self._network, self._strength = network, check_strength(strength)
        pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
        self._structures = find_weight_structures(network, inputs_of(source), pattern)
        if any(found.choices > 1 for found in self._structures.weights):
            raise UserError(
                f"pattern {pattern.name!r} keeps a number of every few weights, which no penalty leads to; use "
                "'element', or penalty 'admm'"
            )
        self._found = [self._structures[group.name] for group in matching_groups(self._structures.groups, layers)]
        self._scale_by_size, self._proximal = scale_by_size, proximal
        self._thresholding = thresholding or Thresholding()
        self._masks: Masks = {}
        self._passed = 0

    def term(self) -> Tensor | None:
        """Returns strength · Σ ‖w_g‖₂, a scalar `[]` to add to the loss of a batch; None where steps are proximal."""
        if self._proximal:
            return None
        sums = [self._factor(found) * _norms(self._arranged(found)).sum() for found in self._found]
        return torch.stack(sums).sum()

    def step(self, rate: float) -> None:
        """Follows a step of the optimizer: shrinks, where steps are proximal, and thresholds where it is time.

        Args:
            rate: the effective one, see `Penalty.step`.
        """
        self._passed += 1
        if self._proximal:
            self._shrink(rate)
        every = self._thresholding.every
        if every is not None and self._passed % every == 0:
            self.threshold()
        else:
            self.masking.hold()

    def threshold(self) -> Masks:
        """Masks the structures whose magnitude is at or below the threshold; what is masked stays so.

        Returns:
            The masks of this penalty alone: name of each weight of which something is masked to a boolean mask of its
            shape, e.g. `[out, in, kh, kw]`, true where it stays.
        """
        masks: dict[str, Tensor] = {}
        at = self._strength if self._thresholding.at is None else self._thresholding.at
        for found in self._found:
            stays = _MAGNITUDES[self._thresholding.by](self._arranged(found).detach()) > at
            if not bool(stays.all()):
                masks[found.parameter] = self._structures.spread(found, stays, self._weight(found), True)
        self._hold(masks)
        return masks

    def finish(self) -> Masks:
        """Thresholds a last time.

        Returns:
            The masks of this penalty alone: name of each weight of which something is masked to a boolean mask of its
            shape, e.g. `[out, in, kh, kw]`, true where it stays.
        """
        return self.threshold()

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of steps, and the masks by parameter name."""
        return {"passed": self._passed, "masks": dict(self._masks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave: masks the weights again."""
        self._passed = state["passed"]
        self._hold(state["masks"])

    def _hold(self, masks: Masks) -> None:
        self._masks = masks
        self.masking.set(self, masks)

    def _shrink(self, rate: float) -> None:
        with torch.no_grad():
            for found in self._found:
                norms = _norms(self._arranged(found))
                less = rate * self._factor(found) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
                weight = self._weight(found)
                weight.mul_(self._structures.spread(found, (1 - less).clamp_min(0), weight, 1.0))

    def _factor(self, found: WeightGroup) -> float:
        return self._strength * (math.sqrt(found.entries) if self._scale_by_size else 1.0)

    def _weight(self, found: WeightGroup) -> Tensor:
        return self._network.get_parameter(found.parameter)

    def _arranged(self, found: WeightGroup) -> Tensor:
        return self._structures.pattern.arrange(found.layer, self._weight(found))


def l1(
    network: nn.Module,
    source: ChannelGraph | Any,
    strength: float,
    layers: Sequence[str] = ("*",),
    *,
    scale_by_size: bool = False,
    proximal: bool = False,
    thresholding: Thresholding | None = None,
    masking: Masking | None = None,
) -> GroupLasso:
    """L1: the absolute values of all weights, times a strength; single weights go to zero.

    It is the group lasso of structures of one weight each.

    Source: Tibshirani 1996 (J. R. Stat. Soc. B 58).

    Args:
        network: the one that is trained.
        source: what `find_groups` found in the network, or samples as it takes them.
        strength: above 0.
        layers: shell patterns of the layers' names.
        scale_by_size: without effect: every structure is one weight.
        proximal: as of `GroupLasso`.
        thresholding: as of `GroupLasso`.
        masking: as of `GroupLasso`.
    """
    return GroupLasso(
        network, source, ELEMENT, strength, layers, proximal=proximal, thresholding=thresholding, masking=masking
    )


def _norms(arranged: Tensor) -> Tensor:
    """Returns `[choices, width]`; torch gives the norm of zeros the gradient zero, the root alone would give NaN."""
    norms: Tensor = torch.linalg.vector_norm(arranged, dim=-1)
    return norms
