"""Pruners: criterion × pattern × schedule, composed; and the table of named ones."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune import registry
from autoprune.errors import UserError
from autoprune.graph.groups import ChannelGraph
from autoprune.pruning.criteria.base import Criterion
from autoprune.pruning.criteria.norms import L1
from autoprune.pruning.masks import Importance
from autoprune.pruning.patterns import FILTER, Pattern
from autoprune.pruning.statistics import Source
from autoprune.pruning.witness import call_witness

log = logging.getLogger(__name__)

Combine = Literal["mean", "sum", "max"]
_COMBINED: Mapping[Combine, Callable[[Tensor], Tensor]] = {
    "mean": lambda layers: layers.mean(0),
    "sum": lambda layers: layers.sum(0),
    "max": lambda layers: layers.amax(0),
}


@dataclass(frozen=True)
class Pruner:
    """What is removed, and by which score.

    Attributes:
        schedule: `one_shot`: all at once.
        combine: how the scores of layers that share a group become one.
        normalise: whether each layer's scores are divided by their mean first, so that a layer with large weights
            does not decide for the others.
    """

    name: str
    criterion: Criterion
    pattern: Pattern = FILTER
    schedule: Literal["one_shot"] = "one_shot"
    combine: Combine = "mean"
    normalise: bool = True

    def scores(
        self, network: nn.Module, graph: ChannelGraph, source: Source | None = None, seed: int = 0
    ) -> Importance:
        """Scores of every structure of every group of the network, by the network's present weights.

        Layers that the criterion can say nothing of (no batch norm follows, say) have no say in their group; a group of
        such layers alone is scored by the L1 norm, and named in the log.

        Args:
            source: samples and loss; only a criterion that reads data needs it, and only then it is read.
            seed: of random draws.

        Raises:
            UserError: the criterion needs data and there is no source, or a score is not finite.
        """
        witness = call_witness(network, graph, self.criterion, self.pattern, source, seed)
        parts = {group.name: witness.parts(group, self.criterion) for group in graph.groups}
        blind = [group for group in graph.groups if not parts[group.name]]
        if blind:
            names = ", ".join(group.name for group in blind)
            log.warning("%s: %s can say nothing of %s; scored by l1", self.name, self.criterion.name, names)
            parts.update({group.name: witness.parts(group, L1) for group in blind})
        return {name: self._combined(name, found) for name, found in parts.items()}

    def _combined(self, group: str, parts: list[Tensor]) -> NDArray[np.float64]:
        stacked = torch.stack(parts)
        if not bool(stacked.isfinite().all()):
            raise UserError(
                f"pruner {self.name!r} gives group {group!r} scores that are not finite; are the network's weights, "
                "and its loss on the training images?"
            )
        if self.normalise:
            stacked = stacked / stacked.mean(1, keepdim=True).clamp_min(torch.finfo(stacked.dtype).tiny)
        scores: NDArray[np.float64] = _COMBINED[self.combine](stacked).cpu().numpy()
        return scores

    def describe(self) -> dict[str, Any]:
        """What was chosen, for records."""
        return {
            "pruner": self.name,
            "criterion": self.criterion.name,
            "pattern": self.pattern.name,
            "schedule": self.schedule,
            "combine": self.combine,
            "normalise": self.normalise,
        }


def _named(name: str, criterion: str, combine: Combine = "mean", normalise: bool = True) -> Pruner:
    found: Criterion = registry.resolve("criterion", criterion)
    return Pruner(name, found, combine=combine, normalise=normalise)


L1_FILTER = _named("l1_filter", "l1")
L2_FILTER = _named("l2_filter", "l2")
FPGM = _named("fpgm", "fpgm")
SLIM = _named("slim", "bn_scale")
APOZ = _named("apoz", "apoz")
MEAN_ACTIVATION = _named("mean_activation", "mean_activation")
# Changes of the loss have one unit in all layers, so they add up as they are.
TAYLOR = _named("taylor", "taylor", combine="sum", normalise=False)
GRADIENT = _named("gradient", "gradient")
RECONSTRUCTION = _named("reconstruction", "reconstruction")
RANDOM = _named("random", "random")
