"""Sensitivity curves: one group at a time at a grid of widths, everything else dense."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autoprune.core.allocation import Allocation
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Recipe, Score
from autoprune.evaluation.evaluator import Evaluator

Level = tuple[str, int]
"""A group and a kept width."""

Record = Callable[[str, int, Score], None]
"""Takes group, width and score of a level."""


def sweep(
    evaluator: Evaluator,
    grid: Mapping[str, Sequence[int]],
    recipe: Recipe,
    images: int,
    done: Mapping[Level, Score],
    record: Record,
) -> SensitivityCurves:
    """Judges every level of a grid that is not done yet.

    Args:
        grid: group to the kept widths to judge.
        images: validation images to judge on.
        done: levels judged before, by this sweep or an interrupted one; the dense network is level `("", 0)`.
        record: called with group, width and score of each level as it is judged.
    """
    scores = dict(done)

    def level(group: str, width: int, allocation: Mapping[str, int]) -> Score:
        if (group, width) not in scores:
            network = evaluator.build(allocation, recipe)
            scores[group, width] = evaluator.judge(network, images)
            record(group, width, scores[group, width])
        return scores[group, width]

    dense = level("", 0, {})
    levels = {
        group: {width: level(group, width, Allocation({group: width})) for width in widths}
        for group, widths in grid.items()
    }
    all_widths = {group.name: group.group.width for group in evaluator.subject.graph.groups}
    fingerprint = sweep_fingerprint(evaluator, recipe, images)
    return SensitivityCurves(dense, levels, {group: all_widths[group] for group in grid}, fingerprint)


def sweep_fingerprint(evaluator: Evaluator, recipe: Recipe, images: int) -> dict[str, Any]:
    """What curves depend on; those of another fingerprint do not hold for this network or task."""
    return {
        **evaluator.judging.identity,
        "pruner": evaluator.subject.pruner.name,
        "scoring": dict(evaluator.subject.scoring),
        "images": images,
        "recipe": asdict(recipe),
        "seed": evaluator.judging.seed,
    }
