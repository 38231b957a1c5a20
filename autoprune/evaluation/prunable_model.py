"""The network that is pruned, with everything that is learnt from it once: groups, costs and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune import registry
from autoprune.core.budget import Budget, Limits
from autoprune.core.costs import CostTable
from autoprune.core.settings import CRITERION, criterion_pattern, of_scoring
from autoprune.core.space import SearchSpace, SpaceRules, build_space, matching
from autoprune.core.trial import Setting
from autoprune.errors import DataError
from autoprune.evaluation.data import ScoringSamples, takes_channels_last
from autoprune.graph.groups import ChannelGraph, Kept, channels_of
from autoprune.graph.inputs import ModelInputs, network_inputs
from autoprune.pruning.criteria.base import among_nonzero
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.structures import Structures
from autoprune.pruning.surgery.masks import Importance, Masks
from autoprune.pruning.surgery.provenance import provenance_of
from autoprune.tasks.base import Task


@dataclass(frozen=True)
class PrunableModel:
    """A network in its dense shape, its groups, costs and scores.

    Attributes:
        network: with its trained weights, in evaluation mode; never changed. What it has lost is zero.
        inputs: two samples like those it was recorded with.
        structures: its groups under that pattern.
        importance: per group, scores of its structures by `pruner`.
        scoring: what was chosen to score them: pruner, criterion, how layers are combined, how many samples were read.
        lost: group to which of its structures are gone (of the shape of its scores); groups that are whole are absent.
            The dense network has lost nothing, a parent's network has.
        samples: what a criterion that reads data is given.
        seed: of a criterion's random draws.
    """

    network: nn.Module
    inputs: ModelInputs
    structures: Structures
    costs: CostTable
    pruner: Pruner
    importance: Importance
    scoring: Mapping[str, Any]
    lost: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    samples: ScoringSamples | None = None
    seed: int = 0

    @property
    def source(self) -> ChannelGraph | ModelInputs:
        """Its channels where the pruner's pattern needs them, else its inputs."""
        return self.inputs if self.structures.graph is None else self.structures.graph

    @cached_property
    def graph(self) -> ChannelGraph:
        """Its channels, which are found when first asked for where the pruner's pattern does not need them.

        Raises:
            TaskError: the network cannot be followed.
        """
        return channels_of(self.network, self.source)

    @cached_property
    def channels_last(self) -> bool:
        """Whether the network runs on images laid with channels last."""
        return takes_channels_last(self.network, self.inputs)

    def space(self, rules: SpaceRules) -> SearchSpace:
        """Returns the search space of its groups."""
        return build_space(rules, self.structures.groups, self.structures.reasons)

    def check_on_fresh_inputs(self, allocation: Mapping[str, int]) -> None:
        """Checks, in both modes, that what an allocation makes of the network does what the masked one does.

        Raises:
            ThinningError: it does not.
        """
        self.structures.check_on_fresh_inputs(self.network, self.importance, allocation, self.inputs)

    def limits(self, budget: Budget) -> Limits:
        """Returns a budget as whole numbers."""
        return budget.resolve(self.costs.dense(), self.costs.effective)

    def scored_by(self, pruner: Pruner) -> PrunableModel:
        """Returns the same network with scores by another pruner of the same pattern, of what is not lost.

        Raises:
            UserError: the pruner needs samples and there are none, or a score is not finite.
        """
        calibration = self.samples.calibration_data() if self.samples else None
        asked = replace(pruner, criterion=among_nonzero(pruner.criterion)) if self.lost else pruner
        kept = self.left_channels()
        scores = asked.estimate_importance(self.network, self.source, calibration, self.seed, self.structures, kept)
        read = self.samples.describe() if self.samples and pruner.criterion.reads_data else {"samples": 0}
        drawn = {"seed": self.seed} if pruner.criterion.drawn else {}
        scoring = {**pruner.describe(), **read, **drawn}
        return replace(self, pruner=pruner, importance=self.without_lost(scores), scoring=scoring)

    def without_lost(self, importance: Importance) -> Importance:
        """Returns the scores with what is lost below everything else, so that it never comes back.

        Args:
            importance: group name to `[structures]` scores (`[choices, structures]` with N:M).

        Returns:
            The same groups with scores of the same shapes; those of what is lost are −∞.
        """
        gone = self.lost
        return {
            name: np.where(gone[name], -np.inf, found) if name in gone else found for name, found in importance.items()
        }

    def left(self) -> dict[str, int]:
        """Returns how much is left of each group that is not whole."""
        return {name: gone.shape[-1] - int(gone.sum(-1).max()) for name, gone in self.lost.items()}

    def left_channels(self) -> Kept:
        """Returns the channels that are left of each group that is not whole; none where weights or branches go."""
        return self.structures.kept_channels(self.without_lost(self._nothing_scored()), self.left())

    def lost_masks(self) -> Masks:
        """Returns the masks of everything that is lost.

        Returns:
            Parameter name to a boolean mask of the shape of its parameter, e.g. `[out, in, kh, kw]`, false where it is
            lost; only parameters of which something is.
        """
        return self.structures.masks(self.network, self.without_lost(self._nothing_scored()), self.left())

    def _nothing_scored(self) -> Importance:
        return {name: np.zeros(gone.shape) for name, gone in self.lost.items()}


def analyze(
    network: nn.Module, inputs: Any, pruner: Pruner, samples: ScoringSamples | None = None, seed: int = 0
) -> PrunableModel:
    """Finds groups, costs and scores of a network.

    Args:
        network: on the device where it will be evaluated.
        inputs: samples as the network takes them, see `ModelInputs.of`; the first two are used.
        pruner: gives the pattern of the groups and the scores.
        samples: what a criterion that reads data is given; any other leaves them unread.
        seed: of a criterion's random draws.

    Raises:
        TaskError: the network cannot run on the inputs.
        UserError: the pruner needs samples and there are none, or a score is not finite.
    """
    network.eval()
    given = ModelInputs.of(inputs).take(2)
    structures = pruner.find_structures(network, given, provenance_of(network).masks)
    costs = structures.cost_table(network, given)
    prunable = PrunableModel(network, given, structures, costs, pruner, {}, {}, samples=samples, seed=seed)
    return prunable.scored_by(pruner)


def example_inputs(task: Task, device: torch.device) -> ModelInputs:
    """Returns two of the task's validation samples.

    Raises:
        DataError: there are none.
    """
    for given, targets in task.batches("validation", 2):
        inputs = ModelInputs.of(network_inputs(given, targets))
        if len(inputs):
            return inputs.take(min(2, len(inputs))).to(device)
    raise DataError(f"task {task.name} has no validation samples")


class ScoredModels:
    """A network under any of the scorings that settings choose; each is computed when first asked for, and kept."""

    def __init__(self, base: PrunableModel) -> None:
        self.base, self._scored = base, {base.pruner: base}

    def under(self, settings: Mapping[str, Setting]) -> PrunableModel:
        """Returns the base under the scoring that settings choose; itself where they choose none, or its own.

        Of several `criterion.PATTERN` that match a group the last holds; all of them go before `criterion`.

        Raises:
            UserError: a criterion cannot score such structures, needs samples and there are none, or a score is not
                finite.
        """
        general: dict[str, Any] = {
            name: value for name, value in of_scoring(settings).items() if criterion_pattern(name) is None
        }
        if CRITERION in general:
            general[CRITERION] = registry.resolve("criterion", general[CRITERION])
        whole = self._scored_by(replace(self.base.pruner, **general))
        chosen: dict[str, str] = {}
        for name, value in settings.items():
            if (pattern := criterion_pattern(name)) is not None:
                chosen |= dict.fromkeys(matching(pattern, self.base.structures.groups), str(value))
        chosen = {group: criterion for group, criterion in chosen.items() if criterion != whole.pruner.criterion.name}
        if not chosen:
            return whole
        importance = dict(whole.importance)
        for group, criterion in chosen.items():
            pruner = replace(whole.pruner, criterion=registry.resolve("criterion", criterion))
            importance[group] = self._scored_by(pruner).importance[group]
        return replace(whole, importance=importance, scoring={**whole.scoring, "criteria": chosen})

    def _scored_by(self, pruner: Pruner) -> PrunableModel:
        if pruner not in self._scored:
            self._scored[pruner] = self.base.scored_by(pruner)
        return self._scored[pruner]
