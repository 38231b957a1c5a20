"""The levels of a sensitivity sweep, each evaluated when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Failure, Score, outcome_to_json
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import outcome_of, retry_out_of_memory
from autoprune.evaluation.sensitivity.prefixes import Prefixes
from autoprune.evaluation.work_model import SweepWork

Grid = Mapping[str, Sequence[int]]
"""Group to the kept widths to evaluate."""

Level = tuple[str, int]
"""A group and a kept width; the dense network is level `("", 0)`."""

DENSE: Level = ("", 0)


@dataclass(frozen=True)
class EvaluationResult:
    """The outcome of evaluating a network, with what it cost.

    Attributes:
        work: in multiply-adds.
    """

    outcome: Score | Failure
    work: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**outcome_to_json(self.outcome), "work": self.work}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvaluationResult:
        scored = "score" in data
        outcome = Score.from_json(data["score"]) if scored else Failure(**data["failure"])
        return cls(outcome, data["work"])


@dataclass(frozen=True)
class SweepSettings:
    """Settings by which the levels of a sweep are evaluated.

    Attributes:
        recipe: the candidates' own, so that curves say what these will lose, except for reconstruction: of each level
            only the layers that use its group are refitted. That takes about as long as re-estimating the batch norm;
            all layers behind the group would take as many passes as there are layers.
        samples: validation samples to evaluate on.
        stop: a group's levels, widest first, end with the first whose accuracy is below this share of the dense
            network's after the recipe. A narrower one keeps a part of what that one keeps, so no allocation of use
            would go there, and the curve goes on with its last slope. None evaluates all.
        reuse: whether what comes before a group is computed once for all of its levels; the scores are the same.
    """

    recipe: Recipe
    samples: int
    stop: float | None = 0.5
    reuse: bool = True


@dataclass(frozen=True)
class GroupSweep:
    """Levels of one group, evaluated widest first until one is hopeless.

    Attributes:
        widths: the greatest first; at least one.
        floor: the accuracy below which a level is hopeless; None if none is.
    """

    group: str
    widths: tuple[int, ...]
    floor: float | None = None

    def hopeless(self, outcome: Score | Failure) -> bool:
        """Returns whether narrower levels than this one need no evaluation; see `SweepSettings.stop`."""
        return isinstance(outcome, Score) and self.floor is not None and outcome.accuracy < self.floor

    def ends(self, width: int, outcome: Score | Failure) -> bool:
        """Returns whether no level is evaluated after this one."""
        return width == self.widths[-1] or self.hopeless(outcome)


@dataclass
class Levels:
    """Evaluates levels of one sweep.

    Scores do not depend on the order, nor does what a level is said to cost, which follows from the grid: as much as if
    one process evaluated all levels in its order. That is the quickest order: what groups have in common with the dense
    network is computed once then, and again from the front where a group is followed by an earlier one.
    """

    evaluator: Evaluator
    grid: Grid
    settings: SweepSettings
    prefixes: Prefixes = field(init=False)
    work: SweepWork = field(init=False)

    def __post_init__(self) -> None:
        self.prefixes = Prefixes(self.evaluator, self.grid, self.settings.recipe, self.settings.samples)
        self.work = SweepWork.of(self.evaluator.work, self.settings.recipe, self.settings.samples)

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
        for width in group_sweep.widths:
            result = retry_out_of_memory(partial(self.evaluate, group_sweep.group, width), retries)
            yield width, result
            if group_sweep.ends(width, result.outcome):
                return

    def work_of(self, grid: Grid) -> int:
        """Returns the work of the dense network and all levels of a grid."""
        prefixes = self.prefixes.macs if self.settings.reuse else {}
        levels = [(group, width) for group, widths in grid.items() for width in widths]
        work = (
            self._work_from_prefix(group, width, grid) if group in prefixes else self.work_alone(group, width)
            for group, width in levels
        )
        return self.work_alone(*DENSE) + sum(work)

    def work_alone(self, group: str, width: int) -> int:
        """Returns the work of a level that shares nothing with others."""
        return self.work.alone(_allocation(group, width))

    def _work_from_prefix(self, group: str, width: int, grid: Grid) -> int:
        return self.work.from_prefix(group, width, self.prefixes.macs, widest=width >= max(grid[group]))

    def _score_alone(self, group: str, width: int) -> Score:
        if (group, width) == DENSE:
            network = self.prefixes.dense
        else:
            network = self.evaluator.prune(_allocation(group, width), self.settings.recipe)
        return self.evaluator.evaluate_network(network, self.settings.samples)


def _allocation(group: str, width: int) -> Allocation:
    return Allocation({group: width} if group else {})
