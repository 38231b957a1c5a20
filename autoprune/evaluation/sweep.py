"""Sensitivity curves: one group at a time at a grid of widths, everything else dense."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoprune.core.allocation import Allocation
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure, Recipe, Score
from autoprune.errors import TaskError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import outcome_of

log = logging.getLogger(__name__)

Level = tuple[str, int]
"""A group and a kept width."""

Record = Callable[[str, int, Score | Failure], None]
"""Takes group, width and outcome of a level."""


def sweep(
    evaluator: Evaluator,
    grid: Mapping[str, Sequence[int]],
    recipe: Recipe,
    images: int,
    done: Mapping[Level, Score | Failure],
    record: Record,
) -> SensitivityCurves:
    """Judges every level of a grid that is not done yet; one that fails is left out of its curve.

    The recipe is that of the candidates, so that curves say what these will lose. Reconstruction takes about as long as
    re-estimating the batch norm here: of each level only the layers that use one group are refitted.

    Args:
        grid: group to the kept widths to judge.
        images: validation images to judge on.
        done: levels judged before, by this sweep or an interrupted one; the dense network is level `("", 0)`.
        record: called with group, width and outcome of each level as it is judged.

    Raises:
        TaskError: the dense network fails after the recipe.
    """
    outcomes = dict(done)

    def level(group: str, width: int, allocation: Mapping[str, int]) -> Score | Failure:
        if (group, width) not in outcomes:
            outcomes[group, width] = outcome_of(lambda: evaluator.judge(evaluator.build(allocation, recipe), images))
            record(group, width, outcomes[group, width])
        return outcomes[group, width]

    dense = level("", 0, {})
    if isinstance(dense, Failure):
        raise TaskError(f"the dense network cannot be judged after its batch norm was re-estimated ({dense.reason})")
    levels = {
        group: _scored(group, {width: level(group, width, Allocation({group: width})) for width in widths})
        for group, widths in grid.items()
    }
    all_widths = {group.name: group.width for group in evaluator.subject.structures.groups}
    fingerprint = sweep_fingerprint(evaluator, recipe, images)
    return SensitivityCurves(dense, levels, {group: all_widths[group] for group in grid}, fingerprint)


def _scored(group: str, outcomes: Mapping[int, Score | Failure]) -> dict[int, Score]:
    for width, outcome in outcomes.items():
        if isinstance(outcome, Failure):
            log.warning("sensitivity: %s at %d is left out: %s: %s", group, width, outcome.kind, outcome.reason)
    return {width: outcome for width, outcome in outcomes.items() if isinstance(outcome, Score)}


def sweep_fingerprint(evaluator: Evaluator, recipe: Recipe, images: int) -> dict[str, Any]:
    """What curves depend on; those of another fingerprint do not hold for this network or task."""
    return {
        **evaluator.judging.identity,
        "pruner": evaluator.subject.pruner.name,
        "scoring": dict(evaluator.subject.scoring),
        "images": images,
        "recipe": recipe.to_json(),
        "seed": evaluator.judging.seed,
    }
