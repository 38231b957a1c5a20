"""Scores of the structures under settings that are searched: criterion, normalisation, how layers are combined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoprune import registry
from autoprune.core.settings import CRITERION, criterion_pattern, of_scoring
from autoprune.core.space import matching
from autoprune.core.trial import Setting
from autoprune.evaluation.prunable_model import PrunableModel
from autoprune.pruning.pruner import Pruner


def chosen_scoring(pruner: Pruner, settings: Mapping[str, Setting]) -> Pruner:
    """The pruner with the settings that hold for all groups put in; all others are passed over."""
    plain: dict[str, Any] = {n: value for n, value in of_scoring(settings).items() if criterion_pattern(n) is None}
    if CRITERION in plain:
        plain[CRITERION] = registry.resolve("criterion", plain[CRITERION])
    return replace(pruner, **plain)


@dataclass
class Scorings:
    """The scores of one network under any settings, each scoring computed when it is first asked for, and kept."""

    base: PrunableModel
    _found: dict[Pruner, PrunableModel] = field(default_factory=dict)

    def prunable(self, settings: Mapping[str, Setting]) -> PrunableModel:
        """The base under the scoring that settings choose; itself where they choose none, or its own.

        Of several `criterion.PATTERN` that match a group the last holds; all of them go before `criterion`.

        Raises:
            UserError: a criterion cannot score such structures, needs samples and there are none, or a score is not
                finite.
        """
        whole = self._scored(chosen_scoring(self.base.pruner, settings))
        chosen: dict[str, str] = {}
        for name, value in settings.items():
            if (pattern := criterion_pattern(name)) is not None:
                chosen |= dict.fromkeys(matching(pattern, self.base.structures.groups), str(value))
        chosen = {group: criterion for group, criterion in chosen.items() if criterion != whole.pruner.criterion.name}
        if not chosen:
            return whole
        importance = {**whole.importance, **{group: self._of(whole, group, name) for group, name in chosen.items()}}
        return replace(whole, importance=importance, scoring={**whole.scoring, "criteria": chosen})

    def _of(self, whole: PrunableModel, group: str, criterion: str) -> Any:
        return self._scored(chosen_scoring(whole.pruner, {CRITERION: criterion})).importance[group]

    def _scored(self, pruner: Pruner) -> PrunableModel:
        if pruner == self.base.pruner:
            return self.base
        if pruner not in self._found:
            self._found[pruner] = self.base.scored_by(pruner)
        return self._found[pruner]
