"""Sensitivity curves: one group at a time at a grid of widths, everything else dense."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoprune.core.recipe import Recipe
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure, Score
from autoprune.errors import TaskError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.sensitivity.levels import (
    DENSE,
    EvaluationResult,
    Grid,
    GroupSweep,
    Level,
    Levels,
    SweepSettings,
)

log = logging.getLogger(__name__)

Record = Callable[[str, int, EvaluationResult], None]
"""Takes group and width of a level and what became of it."""

Skip = Callable[[str, int], None]
"""Takes group and width of a level that is not judged because a wider one was hopeless."""


class Sweep:
    """A sweep in progress: what is still to be judged, by whomever, and the curves in the end.

    What it has judged follows from the scores alone, so that an interrupted sweep ends like an unbroken one, and one
    that several processes share like that of one.

    Args:
        levels: judges the dense network, and says what levels cost.
        done: levels judged before, by this sweep or an interrupted one.
        record: called with each level as it is judged.

    Raises:
        TaskError: the dense network fails after the recipe.
    """

    def __init__(
        self, levels: Levels, done: Mapping[Level, EvaluationResult], record: Record, skip: Skip = lambda *_: None
    ) -> None:
        self._levels, self._found, self._record, self._skip = levels, dict(done), record, skip
        self._waiting = list(levels.grid)
        if DENSE not in self._found:
            self._note(DENSE, levels.evaluate(*DENSE))
        dense = self._found[DENSE].outcome
        if isinstance(dense, Failure):
            raise TaskError(
                f"the dense network cannot be evaluated after its batch norm was re-estimated ({dense.reason})"
            )
        self._dense, stop = dense, levels.settings.stop
        self._floor = None if stop is None else stop * dense.accuracy

    def next(self) -> GroupSweep | None:
        """The levels of the next group that has any to be judged; None if all are handed out."""
        while self._waiting:
            group_sweep = self._due(self._waiting.pop(0))
            if group_sweep.widths:
                return group_sweep
        return None

    def take(self, group_sweep: GroupSweep, width: int, result: EvaluationResult) -> None:
        """What became of a level; one that is known already (a worker began anew) is not recorded again."""
        if (group_sweep.group, width) not in self._found:
            self._note((group_sweep.group, width), result)
        if group_sweep.hopeless(result.outcome):
            for narrower in group_sweep.widths[group_sweep.widths.index(width) + 1 :]:
                self._skip(group_sweep.group, narrower)

    def lost(self, group_sweep: GroupSweep, failure: Failure) -> None:
        """Whoever judged these levels came to grief: at the first of them, or its way to the others is tried again."""
        first = (group_sweep.group, group_sweep.widths[0])
        if first not in self._found:
            self._note(first, EvaluationResult(failure, self._levels.plain(*first)))
        self._waiting = [name for name in self._levels.grid if name in (group_sweep.group, *self._waiting)]

    def curves(self) -> SensitivityCurves:
        """What all levels say; those that failed are left out."""
        grid, widths = self._levels.grid, self._levels.evaluator.prunable.structures.groups
        settings = self._levels.settings
        dense_widths = {group.name: group.width for group in widths}
        return SensitivityCurves(
            self._dense,
            {group: self._curve(group) for group in grid},
            {group: dense_widths[group] for group in grid},
            sweep_fingerprint(self._levels.evaluator, settings.recipe, settings.samples),
            work=self._spent(),
            naive_work=self._levels.costs.naive(grid),
        )

    def _note(self, level: Level, result: EvaluationResult) -> None:
        self._found[level] = result
        self._record(*level, result)

    def _due(self, group: str) -> GroupSweep:
        """What is to be judged of a group: levels below a hopeless one only count if they are known already."""
        widths = sorted(self._levels.grid[group], reverse=True)
        whole, ended, due = GroupSweep(group, tuple(widths), self._floor), False, []
        for width in widths:
            known = self._found.get((group, width))
            if known is not None:
                ended = ended or whole.hopeless(known.outcome)
            elif ended:
                self._skip(group, width)
            else:
                due.append(width)
        return GroupSweep(group, tuple(due), self._floor)

    def _curve(self, group: str) -> dict[int, Score]:
        scores: dict[int, Score] = {}
        for width in sorted(self._levels.grid[group], reverse=True):
            outcome = self._found[group, width].outcome if (group, width) in self._found else None
            if isinstance(outcome, Failure):
                log.warning("sensitivity: %s at %d is left out: %s: %s", group, width, outcome.kind, outcome.reason)
            elif outcome is not None:
                scores[width] = outcome
        return scores

    def _spent(self) -> int:
        """What all levels cost; those of which an earlier release did not say were judged by themselves."""
        return sum(
            self._levels.plain(*level) if result.work is None else result.work for level, result in self._found.items()
        )


def sweep(
    evaluator: Evaluator,
    grid: Grid,
    settings: SweepSettings,
    done: Mapping[Level, EvaluationResult],
    record: Record,
    skip: Skip = lambda *_: None,
) -> SensitivityCurves:
    """Judges every level of a grid that is not done yet, in this process; one that fails is left out of its curve.

    Raises:
        TaskError: the dense network fails after the recipe.
    """
    levels = Levels(evaluator, grid, settings)
    course = Sweep(levels, done, record, skip)
    while (group_sweep := course.next()) is not None:
        for width, result in levels.evaluate_group(group_sweep):
            course.take(group_sweep, width, result)
    return course.curves()


def affordable(evaluator: Evaluator, grids: Sequence[Grid], settings: SweepSettings, most: float) -> Grid:
    """The first of several grids, the finest of them first, whose sweep costs no more than `most`; empty if none does.

    Taken is what it costs if no level is hopeless.
    """
    levels = Levels(evaluator, grids[0], settings)
    return next((grid for grid in grids if levels.most(grid) <= most), {})


def sweep_fingerprint(evaluator: Evaluator, recipe: Recipe, samples: int) -> dict[str, Any]:
    """What curves depend on; those of another fingerprint do not hold for this network or task."""
    divergence = {"objective": "kl"} if evaluator.config.objective == "kl" else {}  # only then levels have it
    return {
        **evaluator.config.identity,
        "pruner": evaluator.prunable.pruner.name,
        "scoring": dict(evaluator.prunable.scoring),
        "samples": samples,
        "recipe": recipe.to_json(),
        "seed": evaluator.config.seed,
        **divergence,
    }
