"""The levels of a sweep, each judged where and when somebody asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Failure, Score, outcome_to_json
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import outcome_of, tried
from autoprune.evaluation.sensitivity.prefixes import Prefixes


@dataclass(frozen=True)
class SweepWork:
    """Costs of the levels of one sweep.

    Attributes:
        recipe: with as many training samples as there are, where it asks for more.
        samples: validation samples that are judged.
    """

    evaluator: Evaluator
    recipe: Recipe
    samples: int

    @classmethod
    def of(cls, evaluator: Evaluator, recipe: Recipe, samples: int) -> SweepWork:
        """The costs of levels judged on `samples` validation samples, fewer where there are no more."""
        return cls(evaluator, evaluator.data.used(recipe), evaluator.data.count("validation", samples))

    @property
    def streamed(self) -> int:
        """Images that go through a network from its inputs to its outputs once; refitting is another matter."""
        return self.samples + (0 if self.recipe.reconstruct else self.recipe.recalibrate)

    def plain(self, allocation: Mapping[str, int]) -> int:
        """Judging an allocation after the recipe, all by itself."""
        result = self.samples * self.evaluator.macs(allocation)
        return result + self.evaluator.recipe_work(allocation, self.recipe)

    def behind(self, allocation: Mapping[str, int], macs_before: int) -> int:
        """The same where what comes before a place, `macs_before` multiply-adds an image, is known."""
        return self.plain(allocation) - self.prefix(macs_before)

    def prefix(self, macs: int) -> int:
        """Bringing all samples so many multiply-adds further."""
        return self.streamed * macs

    def naive(self, grid: Mapping[str, Sequence[int]]) -> int:
        """Judging the dense network and every level of a grid, each by itself."""
        levels = [{group: width} for group, widths in grid.items() for width in widths]
        return sum(self.plain(level) for level in ({}, *levels))


Grid = Mapping[str, Sequence[int]]
"""Group to the kept widths to judge."""

Level = tuple[str, int]
"""A group and a kept width; the dense network is level `("", 0)`."""

DENSE: Level = ("", 0)


@dataclass(frozen=True)
class EvaluationResult:
    """What became of a level.

    Attributes:
        work: what it cost, in samples times multiply-adds; None where an earlier release did not say.
    """

    outcome: Score | Failure
    work: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {**outcome_to_json(self.outcome), "work": self.work}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvaluationResult:
        whole = "score" in data
        outcome = Score.from_json(data["score"]) if whole else Failure.from_json(data["failure"])
        return cls(outcome, data.get("work"))


@dataclass(frozen=True)
class SweepSettings:
    """How the levels of a sweep are judged.

    Attributes:
        recipe: that of the candidates, so that curves say what these will lose, but for reconstruction: of each level
            only the layers that use its group are refitted. That takes about as long as re-estimating the batch norm;
            all layers behind the group would take as many passes as there are layers.
        samples: validation samples to judge on.
        stop: a group's levels, widest first, end with the first whose accuracy is below this share of the dense
            network's after the recipe. A narrower one keeps a part of what that one keeps, so no allocation of use
            would go there, and the curve goes on with its last slope. None judges all.
        reuse: whether what comes before a group is computed once for all of its levels; the scores are the same.
    """

    recipe: Recipe
    samples: int
    stop: float | None = 0.5
    reuse: bool = True


@dataclass(frozen=True)
class GroupSweep:
    """Levels of one group, to be judged widest first until one is hopeless.

    Attributes:
        widths: the greatest first; at least one.
        floor: the accuracy below which a level is hopeless; None if none is.
    """

    group: str
    widths: tuple[int, ...]
    floor: float | None = None

    def hopeless(self, outcome: Score | Failure) -> bool:
        """Whether narrower levels than this one need not be looked at; see `SweepSettings.stop`."""
        return isinstance(outcome, Score) and self.floor is not None and outcome.accuracy < self.floor

    def ends(self, width: int, outcome: Score | Failure) -> bool:
        """Whether no level is judged after this one."""
        return width == self.widths[-1] or self.hopeless(outcome)


@dataclass
class Levels:
    """Judges levels of one sweep.

    Scores do not depend on the order, nor does what a level is said to cost, which follows from the grid: as much as if
    one process judged all levels in its order. That is the quickest order: what groups have in common with the dense
    network is computed once then, and again from the front where a group is followed by an earlier one.
    """

    evaluator: Evaluator
    grid: Grid
    settings: SweepSettings
    prefixes: Prefixes = field(init=False)
    costs: SweepWork = field(init=False)

    def __post_init__(self) -> None:
        self.prefixes = Prefixes(self.evaluator, self.grid, self.settings.recipe, self.settings.samples)
        self.costs = SweepWork.of(self.evaluator, self.settings.recipe, self.settings.samples)

    def evaluate(self, group: str, width: int) -> EvaluationResult:
        """What becomes of a level.

        Raises:
            OSError: data cannot be read.
        """
        shared = False

        def score() -> Score:
            nonlocal shared
            found = self.prefixes.evaluate(group, width) if self.settings.reuse and group else None
            shared = found is not None
            return self._by_itself(group, width) if found is None else found

        outcome = outcome_of(score)
        return EvaluationResult(outcome, self._work(group, width, self.grid) if shared else self.plain(group, width))

    def evaluate_group(self, group_sweep: GroupSweep, retries: int = 0) -> Iterator[tuple[int, EvaluationResult]]:
        """Each width that is judged, with what becomes of it; where memory runs out it is tried again.

        Raises:
            OSError: data cannot be read.
        """
        for width in group_sweep.widths:
            result = tried(partial(self.evaluate, group_sweep.group, width), retries)
            yield width, result
            if group_sweep.ends(width, result.outcome):
                return

    def most(self, grid: Grid) -> int:
        """What the levels of a grid cost if all are judged."""
        levels = [(group, width) for group, widths in grid.items() for width in widths]
        cuts = self.prefixes.cuts if self.settings.reuse else {}
        work = (self._work(*level, grid) if level[0] in cuts else self.plain(*level) for level in levels)
        return self.plain(*DENSE) + sum(work)

    def plain(self, group: str, width: int) -> int:
        """What a level costs all by itself."""
        return self.costs.plain(_allocation(group, width))

    def _by_itself(self, group: str, width: int) -> Score:
        if (group, width) == DENSE:
            return self.evaluator.evaluate_network(self.prefixes.dense, self.settings.samples)
        network = self.evaluator.build(_allocation(group, width), self.settings.recipe)
        return self.evaluator.evaluate_network(network, self.settings.samples)

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
