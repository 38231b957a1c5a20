"""Sensitivity curves: one group at a time at a grid of widths, everything else dense."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure, Score
from autoprune.errors import TaskError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import outcome_of
from autoprune.evaluation.prefixes import Prefixes
from autoprune.evaluation.sweep_work import SweepWork

log = logging.getLogger(__name__)

Grid = Mapping[str, Sequence[int]]
"""Group to the kept widths to judge."""

Level = tuple[str, int]
"""A group and a kept width; the dense network is level `("", 0)`."""

DENSE: Level = ("", 0)


@dataclass(frozen=True)
class Judged:
    """What became of a level.

    Attributes:
        work: what it cost, in images times multiply-adds; None where an earlier release did not say.
    """

    outcome: Score | Failure
    work: int | None = None


Record = Callable[[str, int, Judged], None]
"""Takes group and width of a level and what became of it."""


@dataclass(frozen=True)
class SweepSettings:
    """How the levels of a sweep are judged.

    Attributes:
        recipe: that of the candidates, so that curves say what these will lose. Reconstruction takes about as long as
            re-estimating the batch norm here: of each level only the layers that use one group are refitted.
        images: validation images to judge on.
        stop: a group's levels, widest first, end with the first whose accuracy is below this share of the dense
            network's after the recipe. A narrower one keeps a part of what that one keeps, so no allocation of use
            would go there, and the curve goes on with its last slope. None judges all.
        reuse: whether what comes before a group is computed once for all of its levels; the scores are the same.
    """

    recipe: Recipe
    images: int
    stop: float | None = 0.5
    reuse: bool = True


def sweep(
    evaluator: Evaluator,
    grid: Grid,
    settings: SweepSettings,
    done: Mapping[Level, Judged],
    record: Record,
    skip: Callable[[str, int], None] = lambda *_: None,
) -> SensitivityCurves:
    """Judges every level of a grid that is not done yet; one that fails is left out of its curve.

    What it judges follows from the scores alone, and what a level is said to cost from the grid, so that an interrupted
    sweep ends like an unbroken one.

    Args:
        done: levels judged before, by this sweep or an interrupted one.
        record: called with each level as it is judged.
        skip: called with each level that is not judged because a wider one was hopeless.

    Raises:
        TaskError: the dense network fails after the recipe.
    """
    levels = _Levels(evaluator, grid, settings, dict(done), record)
    dense = levels.judged(*DENSE).outcome
    if isinstance(dense, Failure):
        raise TaskError(f"the dense network cannot be judged after its batch norm was re-estimated ({dense.reason})")
    curves = {group: _descend(levels, group, widths, dense, skip) for group, widths in grid.items()}
    all_widths = {group.name: group.width for group in evaluator.subject.structures.groups}
    return SensitivityCurves(
        dense,
        curves,
        {group: all_widths[group] for group in grid},
        sweep_fingerprint(evaluator, settings.recipe, settings.images),
        work=levels.spent(),
        naive_work=levels.costs.naive(grid),
    )


@dataclass
class _Levels:
    """The levels of one sweep, judged as they are asked for."""

    evaluator: Evaluator
    grid: Grid
    settings: SweepSettings
    found: dict[Level, Judged]
    record: Record
    prefixes: Prefixes = field(init=False)
    costs: SweepWork = field(init=False)

    def __post_init__(self) -> None:
        self.prefixes = Prefixes(self.evaluator, self.grid, self.settings.recipe, self.settings.images)
        self.costs = SweepWork.of(self.evaluator, self.settings.recipe, self.settings.images)

    def known(self, group: str, width: int) -> bool:
        return (group, width) in self.found

    def judged(self, group: str, width: int) -> Judged:
        """What becomes of a level."""
        if not self.known(group, width):
            self.found[group, width] = self._judge(group, width)
            self.record(group, width, self.found[group, width])
        return self.found[group, width]

    def spent(self) -> int:
        """What all levels cost; those of which an earlier release did not say were judged by themselves."""
        return sum(self._plain(*level) if judged.work is None else judged.work for level, judged in self.found.items())

    def _judge(self, group: str, width: int) -> Judged:
        shared = False

        def score() -> Score:
            nonlocal shared
            found = self.prefixes.judge(group, width) if self.settings.reuse and group else None
            shared = found is not None
            return self._by_itself(group, width) if found is None else found

        outcome = outcome_of(score)
        return Judged(outcome, self._work(group, width, self.grid) if shared else self._plain(group, width))

    def _by_itself(self, group: str, width: int) -> Score:
        if (group, width) == DENSE:
            return self.evaluator.judge(self.prefixes.dense, self.settings.images)
        network = self.evaluator.build(_allocation(group, width), self.settings.recipe)
        return self.evaluator.judge(network, self.settings.images)

    def most(self, grid: Grid) -> int:
        """What the levels of a grid cost if all are judged."""
        levels = [(group, width) for group, widths in grid.items() for width in widths]
        cuts = self.prefixes.cuts if self.settings.reuse else {}
        work = (self._work(*level, grid) if level[0] in cuts else self._plain(*level) for level in levels)
        return self._plain(*DENSE) + sum(work)

    def _plain(self, group: str, width: int) -> int:
        """What a level costs all by itself."""
        return self.costs.plain(_allocation(group, width))

    def _work(self, group: str, width: int, grid: Grid) -> int:
        """What a level costs from its cut on; a group's widest also what lies between the last group's cut and its."""
        cut = self.prefixes.cuts[group]
        work = self.costs.behind({group: width}, cut.macs)
        if width < max(grid[group]):
            return work
        names = list(self.prefixes.cuts)
        before = names[: names.index(group)]
        return work + self.costs.prefix(cut.macs - (self.prefixes.cuts[before[-1]].macs if before else 0))


def _allocation(group: str, width: int) -> Allocation:
    return Allocation({group: width} if group else {})


def _descend(
    levels: _Levels, group: str, widths: Sequence[int], dense: Score, skip: Callable[[str, int], None]
) -> dict[int, Score]:
    """The scores of one group by width; levels below a hopeless one only if they are known already."""
    scores: dict[int, Score] = {}
    ended = False
    for width in sorted(widths, reverse=True):
        if ended and not levels.known(group, width):
            skip(group, width)
            continue
        outcome = levels.judged(group, width).outcome
        if isinstance(outcome, Failure):
            log.warning("sensitivity: %s at %d is left out: %s: %s", group, width, outcome.kind, outcome.reason)
        else:
            scores[width] = outcome
            ended = ended or hopeless(outcome, dense, levels.settings.stop)
    return scores


def hopeless(score: Score, dense: Score, stop: float | None) -> bool:
    """Whether a level is so bad that narrower ones need not be looked at; see `SweepSettings.stop`."""
    return stop is not None and score.accuracy < stop * dense.accuracy


def affordable(evaluator: Evaluator, grids: Sequence[Grid], settings: SweepSettings, most: float) -> Grid:
    """The first of several grids, the finest of them first, whose sweep costs no more than `most`; empty if none does.

    Taken is what it costs if no level is hopeless.
    """
    levels = _Levels(evaluator, grids[0], settings, {}, lambda *_: None)
    return next((grid for grid in grids if levels.most(grid) <= most), {})


def sweep_fingerprint(evaluator: Evaluator, recipe: Recipe, images: int) -> dict[str, Any]:
    """What curves depend on; those of another fingerprint do not hold for this network or task."""
    divergence = {"objective": "kl"} if evaluator.judging.objective == "kl" else {}  # only then levels have it
    return {
        **evaluator.judging.identity,
        "pruner": evaluator.subject.pruner.name,
        "scoring": dict(evaluator.subject.scoring),
        "images": images,
        "recipe": recipe.to_json(),
        "seed": evaluator.judging.seed,
        **divergence,
    }
