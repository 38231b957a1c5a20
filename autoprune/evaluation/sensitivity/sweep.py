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
"""Takes group and width of a level, and its result."""

Skip = Callable[[str, int], None]
"""Takes group and width of a level that is not evaluated because a wider one was hopeless."""


class Sweep:
    """A sweep in progress: which levels are still to be evaluated, by any process, and the curves in the end.

    Which levels it evaluates follows from the scores alone, so that an interrupted sweep ends like an unbroken one, and
    one that several processes share like that of one.

    Args:
        levels: evaluates the dense network, and says what levels cost.
        done: levels evaluated before, by this sweep or an interrupted one.
        record: called with each level as it is evaluated.
        skip: called with each level that need not be evaluated.

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
        """Returns the levels of the next group that has any to evaluate; None if all are handed out."""
        while self._waiting:
            group_sweep = self._due(self._waiting.pop(0))
            if group_sweep.widths:
                return group_sweep
        return None

    def take(self, group_sweep: GroupSweep, width: int, result: EvaluationResult) -> None:
        """Takes the result of a level; one that is known already (a worker began anew) is not recorded again."""
        if (group_sweep.group, width) not in self._found:
            self._note((group_sweep.group, width), result)
        if group_sweep.hopeless(result.outcome):
            for narrower in group_sweep.widths[group_sweep.widths.index(width) + 1 :]:
                self._skip(group_sweep.group, narrower)

    def lost(self, group_sweep: GroupSweep, failure: Failure) -> None:
        """Records a failure of the first of these levels unless it is known, and hands the others out again."""
        first = (group_sweep.group, group_sweep.widths[0])
        if first not in self._found:
            self._note(first, EvaluationResult(failure, self._levels.work_alone(*first)))
        self._waiting = [name for name in self._levels.grid if name in (group_sweep.group, *self._waiting)]

    def curves(self) -> SensitivityCurves:
        """Returns the curves of all levels; those that failed are left out."""
        grid, settings, evaluator = self._levels.grid, self._levels.settings, self._levels.evaluator
        dense_widths = {group.name: group.width for group in evaluator.prunable.structures.groups}
        return SensitivityCurves(
            self._dense,
            {group: self._curve(group) for group in grid},
            {group: dense_widths[group] for group in grid},
            sweep_fingerprint(evaluator, settings.recipe, settings.samples),
            work=sum(result.work for result in self._found.values()),
            naive_work=self._levels.work.all_alone(grid),
        )

    def _note(self, level: Level, result: EvaluationResult) -> None:
        self._found[level] = result
        self._record(*level, result)

    def _due(self, group: str) -> GroupSweep:
        """Returns what is left to evaluate of a group: levels below a hopeless one count only if known already."""
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


def sweep(
    evaluator: Evaluator,
    grid: Grid,
    settings: SweepSettings,
    done: Mapping[Level, EvaluationResult],
    record: Record,
    skip: Skip = lambda *_: None,
) -> SensitivityCurves:
    """Evaluates every level of a grid that is not done yet, in this process, and returns the curves.

    Args:
        done: levels evaluated before.
        record: called with each level as it is evaluated.
        skip: called with each level that need not be evaluated.

    Raises:
        TaskError: the dense network fails after the recipe.
    """
    levels = Levels(evaluator, grid, settings)
    in_progress = Sweep(levels, done, record, skip)
    while (group_sweep := in_progress.next()) is not None:
        for width, result in levels.evaluate_group(group_sweep):
            in_progress.take(group_sweep, width, result)
    return in_progress.curves()


def affordable(evaluator: Evaluator, grids: Sequence[Grid], settings: SweepSettings, most: float) -> Grid:
    """Returns the first of several grids whose sweep costs no more than `most`, no level being hopeless; else none.

    Args:
        grids: the finest first.
        most: in multiply-adds.
    """
    levels = Levels(evaluator, grids[0], settings)
    return next((grid for grid in grids if levels.work_of(grid) <= most), {})


def sweep_fingerprint(evaluator: Evaluator, recipe: Recipe, samples: int) -> dict[str, Any]:
    """Returns what curves depend on; those of another fingerprint do not hold for this network or task."""
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
