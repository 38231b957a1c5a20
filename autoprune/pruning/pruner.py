"""Pruners: compositions of criterion, pattern, schedule, allocator and penalty; the named ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune import registry
from autoprune.core.space import SpaceRules
from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph, Kept, channels_of, inputs_of
from autoprune.pruning.allocators import ABOVE_THRESHOLD, GLOBAL, UNIFORM, Allocator
from autoprune.pruning.criteria.base import Criterion, Need
from autoprune.pruning.criteria.magnitudes import L1
from autoprune.pruning.importance import make_estimator
from autoprune.pruning.patterns import BLOCK_1X1X8, ELEMENT, FILTER, TWO_FOUR, Pattern, with_depth, with_equal
from autoprune.pruning.schedules import AGP, GROWING, LOTTERY_TICKET, ONE_SHOT, Schedule
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.pruning.structures import Structures, find_thinned_structures
from autoprune.pruning.surgery.masks import Importance, Masks
from autoprune.pruning.weight_structures import find_weight_structures

log = logging.getLogger(__name__)

Combine = Literal["mean", "sum", "max"]
_UNSCORED: Mapping[Need, str] = {
    "norm": "no batch norm follows them",
    "activations": "no activation holds their channels all together",
    "consumers": "no linear layer or convolution uses them",
}
_COMBINED: Mapping[Combine, Callable[..., Tensor]] = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}


def find_structures(
    network: nn.Module, source: ChannelGraph | Any, pattern: Pattern, held: Masks | None = None
) -> Structures:
    """Finds the groups of a network under a pattern; those of single weights need no graph.

    Args:
        network: is not changed.
        source: what `find_groups` found in the network, or samples as it takes them (see `ModelInputs.of`).
        pattern: the shape of what is removed.
        held: masks of weights that are zero for good: structures of single weights are found among the others.

    Raises:
        TaskError: the network cannot run, or, where channels or branches go, not be followed.
    """
    if pattern.thins:
        return find_thinned_structures(network, channels_of(network, source), pattern)
    return find_weight_structures(network, inputs_of(source), pattern, held)


@dataclass(frozen=True)
class Pruner:
    """What is removed, by which score, and when.

    Attributes:
        criterion: scores the structures; those with the highest scores stay.
        pattern: the shape of a structure.
        schedule: how the removal is spread over a training; a search removes all at once.
        allocator: how one number becomes widths outside a search, which finds the widths itself.
        penalty: name of what is added to the training loss (`autoprune list penalties`), or None.
        combine: how the scores of layers that share a group become one.
        normalise: whether each layer's scores are divided by their mean first, so that a layer with large weights
            does not decide for the others.
    """

    name: str
    criterion: Criterion
    pattern: Pattern = FILTER
    schedule: Schedule = ONE_SHOT
    allocator: Allocator = UNIFORM
    penalty: str | None = None
    combine: Combine = "mean"
    normalise: bool = True

    def find_structures(self, network: nn.Module, source: ChannelGraph | Any, held: Masks | None = None) -> Structures:
        """Returns the network's groups under this pruner's pattern; see the function of this name."""
        return find_structures(network, source, self.pattern, held)

    def within(self, rules: SpaceRules) -> Pruner:
        """Returns the same pruner with what a space asks of the structures: removable branches, equal widths.

        Raises:
            UserError: it asks for either, and what the pruner removes are no channels.
        """
        pruner = self.with_depth() if rules.depth else self
        return replace(pruner, pattern=with_equal(pruner.pattern, rules.equal)) if rules.equal else pruner

    def with_depth(self) -> Pruner:
        """Returns the same pruner with residual branches that may be removed beside channels.

        Raises:
            UserError: what it removes are no channels.
        """
        return replace(self, pattern=with_depth(self.pattern))

    def estimate_importance(
        self,
        network: nn.Module,
        source: ChannelGraph | Any,
        calibration: CalibrationData | None = None,
        seed: int = 0,
        structures: Structures | None = None,
        kept: Kept | None = None,
    ) -> Importance:
        """Scores every structure of every group of the network, by the network's present weights.

        Layers that the criterion cannot score (no batch norm follows, say) do not count in their group; a group of
        such layers alone is scored by the L1 norm, and named in the log.

        Args:
            network: left as it is.
            source: what `find_groups` found in the network, or samples as it takes them.
            calibration: samples and loss; only a criterion that reads data needs it, and only then it is read.
            seed: of random draws.
            structures: the network's under this pattern, where they are known.
            kept: group to the channels that the network has not lost yet, by being set to zero; None: it is whole.

        Returns:
            Group name to `[structures]` scores (`[choices, structures]` with N:M, `[groups, structures]` of groups that
            are made equally wide), higher is kept.

        Raises:
            UserError: the criterion needs data and there is none, it cannot score such structures, or a score is
                not finite.
        """
        structures = structures or self.find_structures(network, source)
        estimator = make_estimator(network, structures, self.criterion, calibration, seed, kept or {})
        names = [part.name for group in structures.groups for part in group.each]
        by_layer = {name: estimator.layer_scores(name, self.criterion) for name in names}
        unscored = [name for name in names if not by_layer[name]]
        if unscored:
            why = " and ".join(_UNSCORED[need] for need in sorted(self.criterion.needs & _UNSCORED.keys()))
            of = f"{', '.join(unscored)}{f', as {why}' if why else ''}"
            log.warning("%s: %s cannot score %s; scored by l1", self.name, self.criterion.name, of)
            by_layer.update({name: estimator.layer_scores(name, L1) for name in unscored})
        return structures.by_group({name: self._combine(name, scores) for name, scores in by_layer.items()})

    def _combine(self, group: str, by_layer: list[Tensor]) -> NDArray[np.float64]:
        """Returns one score for each structure from those by each layer, all of one shape."""
        stacked = torch.stack(by_layer)
        if not bool(stacked.isfinite().all()):
            raise UserError(
                f"pruner {self.name!r} gives group {group!r} scores that are not finite; are the network's weights, "
                "and its loss on the training samples?"
            )
        if self.normalise and stacked.shape[-1] > 1:  # of a group of one structure every score would become 1
            means = stacked.flatten(1).mean(1).view(-1, *[1] * (stacked.dim() - 1))
            stacked = stacked / means.clamp_min(torch.finfo(stacked.dtype).tiny)
        scores: NDArray[np.float64] = _COMBINED[self.combine](stacked, dim=0).cpu().numpy()
        return scores

    def describe(self) -> dict[str, Any]:
        """Returns the names of what was composed, and the settings, for records."""
        parts = {field: getattr(value, "name", value) for field, value in vars(self).items()}
        return {"pruner": parts.pop("name"), **parts}


def _named(name: str, criterion: str, pattern: Pattern = FILTER, **parts: Any) -> Pruner:
    found: Criterion = registry.resolve("criterion", criterion)
    return Pruner(name, found, pattern, **parts)


L1_FILTER = _named("l1_filter", "l1")
L2_FILTER = _named("l2_filter", "l2")
FPGM_FILTER = _named("fpgm", "fpgm")
SLIM = _named("slim", "bn_scale", allocator=GLOBAL, penalty="l1_scale", normalise=False)
APOZ_FILTER = _named("apoz", "apoz")
MEAN_ACTIVATION_FILTER = _named("mean_activation", "mean_activation")
# Changes of the loss have one unit in all layers, so they add up as they are.
TAYLOR_FILTER = _named("taylor", "taylor", combine="sum", normalise=False)
GRADIENT_FILTER = _named("gradient", "gradient")
RECONSTRUCTION_FILTER = _named("reconstruction", "reconstruction")
RANDOM_FILTER = _named("random", "random")
LEVEL = _named("level", "magnitude", ELEMENT, normalise=False)
BLOCK = _named("block_1x1x8", "magnitude", BLOCK_1X1X8, normalise=False)
N_OF_M = _named("two_four", "magnitude", TWO_FOUR, normalise=False)
SENSITIVITY = _named(
    "sensitivity", "std_threshold", ELEMENT, schedule=GROWING, allocator=ABOVE_THRESHOLD, normalise=False
)
FIXED_THRESHOLD = _named("threshold", "threshold", ELEMENT, allocator=ABOVE_THRESHOLD, normalise=False)
GRADUAL = _named("agp", "magnitude", ELEMENT, schedule=AGP, normalise=False)
TICKET = _named("lottery_ticket", "magnitude", ELEMENT, schedule=LOTTERY_TICKET, normalise=False)
# A channel died if all layers that make it did: what is at most the strength, which is the number given, goes.
GROUP_LASSO = _named(
    "group_lasso", "magnitude", allocator=ABOVE_THRESHOLD, penalty="group_lasso", combine="max", normalise=False
)
ADMM = _named("admm", "l2", penalty="admm", combine="sum", normalise=False)
