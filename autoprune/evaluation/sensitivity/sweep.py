"""Sensitivity curves: one group at a time at a grid of widths, everything else dense."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from autoprune.core.metrics import KL
from autoprune.core.recipe import Recipe
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure, Score
from autoprune.errors import TaskError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import EvaluationResult, outcome_of, retry_out_of_memory
from autoprune.evaluation.sensitivity.prefixes import Prefixes

log = logging.getLogger(__name__)

Grid = Mapping[str, Sequence[int]]
"""Group to the kept widths to evaluate."""

Level = tuple[str, int]
"""A group and a kept width; the dense network is level `("", 0)`."""

DENSE: Level = ("", 0)

Record = Callable[[str, int, EvaluationResult], None]
"""Takes group and width of a level, and its result."""

Skip = Callable[[str, int], None]
"""Takes group and width of a level that is not evaluated because a wider one was hopeless."""


@dataclass(frozen=True)
class SweepSettings:
    """Settings by which the levels of a sweep are evaluated.

    Attributes:
        recipe: the candidates' own, so that curves say what these will lose, except for reconstruction: of each level
            only the layers that use its group are refitted. That takes about as long as re-estimating the batch norm;
            all layers behind the group would take as many passes as there are layers.
        samples: validation samples to evaluate on.
        stop: a group's levels, widest first, end with the first whose first metric, if that should be high, is below
            this share of the dense network's after the recipe. A narrower one keeps a part of what that one keeps, so
            no allocation of use would go there, and the curve goes on with its last slope. Width 0 is evaluated all
            the same: without its branch a network may be better than with little of it. None evaluates all.
        reuse: whether what comes before a group is computed once for all of its levels; the scores are the same.
    """

    recipe: Recipe
    samples: int
    stop: float | None = 0.5
    reuse: bool = True


@dataclass(frozen=True)
class GroupSweep:
    """Levels of one group, evaluated widest first until one is hopeless; then only width 0.

    Attributes:
        widths: the greatest first; at least one.
        metric: by which a level may be hopeless.
        floor: what it has to be at least; None if no level is hopeless.
    """

    group: str
    widths: tuple[int, ...]
    metric: str = ""
    floor: float | None = None

    def hopeless(self, outcome: Score | Failure) -> bool:
        """Returns whether narrower levels than this one need no evaluation; see `SweepSettings.stop`."""
        return isinstance(outcome, Score) and self.floor is not None and outcome.metrics[self.metric] < self.floor

    def left(self, width: int, outcome: Score | Failure) -> tuple[int, ...]:
        """Returns the widths to be evaluated after this one."""
        narrower = self.widths[self.widths.index(width) + 1 :]
        return tuple(each for each in narrower if not each) if self.hopeless(outcome) else narrower

    def ends(self, width: int, outcome: Score | Failure) -> bool:
        """Returns whether no level is evaluated after this one."""
        return not self.left(width, outcome)


class Levels:
    """Evaluates levels of one sweep.

    Scores do not depend on the order, nor does what a level is said to cost, which follows from the grid: as much as if
    one process evaluated all levels in its order. That is the quickest order: what groups have in common with the dense
    network is computed once then, and again from the front where a group is followed by an earlier one.
    """

    def __init__(self, evaluator: Evaluator, grid: Grid, settings: SweepSettings) -> None:
        self.evaluator, self.grid, self.settings = evaluator, grid, settings
        self.prefixes = Prefixes(evaluator, grid, settings.recipe, settings.samples)
        self._recipe = evaluator.data.cap_samples(settings.recipe)
        self._samples = evaluator.data.count("validation", settings.samples)

    def evaluate(self, group: str, width: int) -> EvaluationResult:
        """Returns the outcome of a level.

        Raises:
            OSError: data cannot be read.
        """
        shared = False

        def score() -> Score:
            nonlocal shared
            found = self.prefixes.evaluate(group, width) if self.settings.reuse and group else None
            shared = found is not None
            return self._score_alone(group, width) if found is None else found

        outcome = outcome_of(score)
        work = self._work_from_prefix(group, width, self.grid) if shared else self.work_alone(group, width)
        return EvaluationResult(outcome, work)

    def evaluate_group(self, group_sweep: GroupSweep, retries: int = 0) -> Iterator[tuple[int, EvaluationResult]]:
        """Yields each width that is evaluated, with its result; where memory runs out it is tried again.

        Raises:
            OSError: data cannot be read.
        """
        due = group_sweep.widths
        while due:
            width = due[0]
            result = retry_out_of_memory(partial(self.evaluate, group_sweep.group, width), retries)
            yield width, result
            due = group_sweep.left(width, result.outcome)

    def work(self, grid: Grid) -> int:
        """Returns the work of the dense network and all levels of a grid."""
        prefixes = self.prefixes.cuts if self.settings.reuse else {}
        return sum(
            self._work_from_prefix(group, width, grid) if group in prefixes else self.work_alone(group, width)
            for group, width in _levels(grid)
        )

    def naive_work(self) -> int:
        """Returns the work of the dense network and all levels if they share nothing."""
        return sum(self.work_alone(*level) for level in _levels(self.grid))

    def work_alone(self, group: str, width: int) -> int:
        """Returns the work of a level that shares nothing with others."""
        return self.evaluator.work.evaluation(_widths(group, width), self._recipe, self._samples)

    def _work_from_prefix(self, group: str, width: int, grid: Grid) -> int:
        """Returns the work of a level where what comes before its group has been computed for all of its levels.

        The widest level of a group also pays for bringing all samples from the prefix of the group before to its own.
        """
        macs = {name: cut.macs for name, cut in self.prefixes.cuts.items()}
        streamed = self._samples + (0 if self._recipe.reconstruct else self._recipe.recalibrate)
        own = self.work_alone(group, width) - streamed * macs[group]
        if width < max(grid[group]):
            return own
        before = dict(zip(macs, (0, *macs.values()), strict=False))
        return own + streamed * (macs[group] - before[group])

    def _score_alone(self, group: str, width: int) -> Score:
        if (group, width) == DENSE:
            network = self.prefixes.dense
        else:
            network = self.evaluator.prune(_widths(group, width), self.settings.recipe)
        return self.evaluator.evaluate_network(network, self.settings.samples)


def _widths(group: str, width: int) -> dict[str, int]:
    return {group: width} if group else {}


def _levels(grid: Grid) -> list[Level]:
    """Returns all levels of a grid, the dense network first."""
    return [DENSE, *((group, width) for group, widths in grid.items() for width in widths)]


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
        self._dense, self._floor = dense, _floor(levels, dense)

    def next(self) -> GroupSweep | None:
        """Returns the levels of the next group that has any to evaluate; None if all are handed out."""
        while self._waiting:
            group_sweep = self._due(self._waiting.pop(0))
            if group_sweep.widths:
                return group_sweep
        return None

    def take(self, group_sweep: GroupSweep, width: int, result: EvaluationResult) -> None:
        """Takes the result of a level; one that is known already (a worker began anew) is not recorded again.

        Args:
            group_sweep: the levels of which it is one.
            width: of the level.
            result: its score or failure, and its work.
        """
        if (group_sweep.group, width) not in self._found:
            self._note((group_sweep.group, width), result)
        if group_sweep.hopeless(result.outcome):
            for narrower in group_sweep.widths[group_sweep.widths.index(width) + 1 :]:
                if narrower:
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
            naive_work=self._levels.naive_work(),
        )

    def _note(self, level: Level, result: EvaluationResult) -> None:
        self._found[level] = result
        self._record(*level, result)

    def _due(self, group: str) -> GroupSweep:
        """Returns what is left to evaluate of a group: levels below a hopeless one count only if known already."""
        widths = sorted(self._levels.grid[group], reverse=True)
        whole, ended, due = GroupSweep(group, tuple(widths), *self._floor), False, []
        for width in widths:
            known = self._found.get((group, width))
            if known is not None:
                ended = ended or whole.hopeless(known.outcome)
            elif ended and width:
                self._skip(group, width)
            else:
                due.append(width)
        return GroupSweep(group, tuple(due), *self._floor)

    def _curve(self, group: str) -> dict[int, Score]:
        scores: dict[int, Score] = {}
        for width in sorted(self._levels.grid[group], reverse=True):
            outcome = self._found[group, width].outcome if (group, width) in self._found else None
            if isinstance(outcome, Failure):
                log.warning("sensitivity: %s at %d is left out: %s: %s", group, width, outcome.kind, outcome.reason)
            elif outcome is not None:
                scores[width] = outcome
        return scores


def affordable(evaluator: Evaluator, grids: Sequence[Grid], settings: SweepSettings, most: float) -> Grid:
    """Returns the first of several grids whose sweep costs no more than `most`, no level being hopeless; else none.

    Args:
        grids: the finest first.
        most: in multiply-adds.
    """
    levels = Levels(evaluator, grids[0], settings)
    return next((grid for grid in grids if levels.work(grid) <= most), {})


def sweep_fingerprint(evaluator: Evaluator, recipe: Recipe, samples: int) -> dict[str, Any]:
    """Returns what curves depend on; those of another fingerprint do not hold for this network or task.

    Args:
        evaluator: knows network, pruner, task and seed.
        recipe: that of the levels.
        samples: validation samples that levels are evaluated on.
    """
    divergence = {"objective": "kl"} if evaluator.config.objective == KL else {}  # only then levels have it
    return {
        **evaluator.config.identity,
        "pruner": evaluator.prunable.pruner.name,
        "scoring": dict(evaluator.prunable.scoring),
        "samples": samples,
        "recipe": recipe.to_json(),
        "seed": evaluator.config.seed,
        **divergence,
    }


def _floor(levels: Levels, dense: Score) -> tuple[str, float | None]:
    """Returns the metric by which a level may be hopeless, and the least it has to be; see `SweepSettings.stop`."""
    first, stop = next(iter(levels.evaluator.task.metrics), None), levels.settings.stop
    if first is None or stop is None or first.info.direction != "maximize" or dense.metrics[first.name] <= 0:
        return "", None
    return first.name, stop * dense.metrics[first.name]
