"""Scores of the structures under settings that are searched: criterion, normalisation, how layers are combined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autoprune import registry
from autoprune.core.settings import CRITERION, criterion_pattern, of_scoring
from autoprune.core.space import matching
from autoprune.core.trial import Setting
from autoprune.evaluation.scoring import ScoringImages
from autoprune.evaluation.subject import Subject
from autoprune.pruning.masks import Importance
from autoprune.pruning.pruner import Pruner


def chosen_scoring(pruner: Pruner, settings: Mapping[str, Setting]) -> Pruner:
    """The pruner with the settings that hold for all groups put in; all others are passed over."""
    plain: dict[str, Any] = {n: value for n, value in of_scoring(settings).items() if criterion_pattern(n) is None}
    if CRITERION in plain:
        plain[CRITERION] = registry.resolve("criterion", plain[CRITERION])
    return replace(pruner, **plain)


def scoring_for(subject: Subject, settings: Mapping[str, Setting], images: ScoringImages | None, seed: int) -> Subject:
    """The subject under the scoring that settings choose; itself where they choose none, or its own.

    Of several `criterion.PATTERN` that match a group the last holds; all of them go before `criterion`.

    Args:
        images: what a criterion that reads data is given.
        seed: of a criterion's random draws.

    Raises:
        UserError: a criterion cannot score such structures, needs images and there are none, or a score is not finite.
    """
    return Scorings(subject, images, seed).subject(settings)


@dataclass
class Scorings:
    """The scores of one network under any settings, each scoring computed when it is first asked for, and kept."""

    base: Subject
    images: ScoringImages | None
    seed: int
    _found: dict[Pruner, Subject] = field(default_factory=dict)

    def subject(self, settings: Mapping[str, Setting]) -> Subject:
        """As `scoring_for`."""
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

    def _of(self, whole: Subject, group: str, criterion: str) -> Any:
        return self._scored(chosen_scoring(whole.pruner, {CRITERION: criterion})).importance[group]

    def _scored(self, pruner: Pruner) -> Subject:
        if pruner == self.base.pruner:
            return self.base
        if pruner not in self._found:
            base, images = self.base, self.images
            importance: Importance = pruner.scores(
                base.network, base.graph, images.source() if images else None, self.seed
            )
            scoring = scoring_record(pruner, images, self.seed)
            self._found[pruner] = replace(base, pruner=pruner, importance=importance, scoring=scoring)
        return self._found[pruner]


def scoring_record(pruner: Pruner, images: ScoringImages | None, seed: int) -> dict[str, Any]:
    """What was chosen to score by, for records."""
    read = images.describe() if images and pruner.criterion.reads_data else {"images": 0}
    drawn = {"seed": seed} if pruner.criterion.drawn else {}
    return {**pruner.describe(), **read, **drawn}
