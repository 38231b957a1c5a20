"""What a searcher is given, and what it must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits
from autoprune.core.costs import CostTable
from autoprune.core.metrics import LOSS, Objective
from autoprune.core.projecting.projection import Projection
from autoprune.core.recipe import Recipe, Rounds
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.settings import defaults
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Role, Score, Setting, Trial
from autoprune.errors import UserError


@dataclass(frozen=True)
class SearchProblem:
    """Everything a searcher may know.

    Attributes:
        curves: sensitivity curves by criterion; empty if no sweep was made.
        importance: per group, `[width]` scores of its structures, higher is kept.
        trials: how many candidates the search may evaluate; None is as many as `work` allows.
        work: multiply-adds that evaluating candidates may take; None is as many as `trials` take.
        price: multiply-adds that evaluating one candidate takes at most.
        rungs: ascending numbers of samples after which an evaluation can end.
        limits: what every candidate may cost, as whole numbers.
        rounds: how a search in rounds goes on; None if nothing was said of it.
        dense: the score of the dense network as it is, on the samples of candidates; None if it was not evaluated.
        parent, role: those of every candidate; the whole run's start from the dense network and are final.

    Raises:
        ValueError: neither trials nor work are limited.
    """

    space: SearchSpace
    costs: CostTable
    limits: Limits
    trials: int | None
    seed: int = 0
    objective: Objective = LOSS
    recipe: Recipe = field(default_factory=Recipe)
    curves: Mapping[str, SensitivityCurves] = field(default_factory=dict)
    importance: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    work: int | None = None
    price: int = 0
    rungs: tuple[int, ...] = ()
    rounds: Rounds | None = None
    dense: Score | None = None
    parent: int | None = None
    role: Role = "final"

    def __post_init__(self) -> None:
        if self.trials is None and self.work is None:
            raise ValueError("a search needs an end: a number of trials, or the work that they may take")

    def project(self, widths: Mapping[str, int]) -> Allocation:
        """Returns the allocation moved inside the space and onto every limit."""
        return self.projection.project(widths)

    def repair(self, widths: Mapping[str, int]) -> Allocation:
        """Returns the allocation moved inside the space and under every limit; what they leave is not filled."""
        return self.projection.repair(widths)

    @cached_property
    def projection(self) -> Projection:
        """The projection inside the space and onto every limit."""
        return Projection(self.space, self.costs, self.limits)

    def candidate(
        self,
        number: int,
        allocation: Allocation,
        stop_thresholds: tuple[float | None, ...] = (),
        settings: Mapping[str, Setting] | None = None,
    ) -> Candidate:
        """Returns a candidate of this problem's parent and role, under its recipe and limits.

        Args:
            number: counts from 0 within a search.
            allocation: within the limits.
            stop_thresholds: see `Candidate`.
            settings: a value for each setting of the space, perhaps others too; None takes the default ones.
        """
        limits = dict(self.limits)
        values = self.default_settings if settings is None else settings
        chosen = {name: values[name] for name in self.space.settings}
        return Candidate(number, allocation, self.recipe, chosen, self.parent, self.role, limits, stop_thresholds)

    @property
    def default_settings(self) -> Mapping[str, Setting]:
        """The values of the space's settings where they are not searched."""
        return defaults(self.space.settings)

    def generator(self, number: int) -> np.random.Generator:
        """Returns the generator of one candidate's draws: a function of the seed and its number alone."""
        return np.random.default_rng([self.seed, number])


class Searcher(Protocol):
    """Asked for candidates, told trials; a deterministic function of its problem and of the sequence of both.

    `ask(n)` is n times `ask(1)`. Numbers count from 0 without gaps. No candidate is proposed twice; every one lies in
    the space and within its limits, which are the run's if it is final; if it has a parent, that is a trial told with a
    score, none of whose groups is narrower. Results may come in any order, failures come too.

    Attributes:
        uses_curves: whether sensitivity curves are of use to it, so that a sweep is worth its cost.
        needs_curves: whether it refuses to search without them.
        handles_settings: whether it searches the settings of the space; else they keep their defaults.
        is_random: whether it draws anything, so that two seeds search differently.
        works_in_rounds: whether its candidates have limits, a parent or a recipe of their own on the way.
        fills_budget: whether its candidates use all of the limits that they can; else cheaper ones are wanted too.
    """

    uses_curves: ClassVar[bool]
    needs_curves: ClassVar[bool]
    handles_settings: ClassVar[bool]
    is_random: ClassVar[bool]
    works_in_rounds: ClassVar[bool]
    fills_budget: ClassVar[bool]

    def __init__(self, problem: SearchProblem) -> None: ...

    @property
    def parents(self) -> frozenset[int]:
        """Numbers of the trials whose weights a later candidate, or one that runs, may start from."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know of how it searches; each stays the same once it is there."""

    @property
    def failure(self) -> str | None:
        """Why it ended before it could propose final candidates, if it did."""

    def ask(self, limit: int) -> Sequence[Candidate]:
        """Returns at most `limit` new candidates.

        An empty answer means that it waits for what runs, or has finished if nothing runs; then its state is as before.
        """

    def tell(self, trial: Trial) -> None:
        """Takes the outcome of a candidate it proposed."""


def measured_curves(problem: SearchProblem, searcher: str) -> tuple[SensitivityCurves, ...]:
    """Returns the problem's sensitivity curves, in the order given.

    Raises:
        UserError: there are none.
    """
    if not problem.curves:
        raise UserError(
            f"searcher {searcher!r} needs sensitivity curves but none were measured; "
            "run the sweep first, or search with 'tpe' or 'random'"
        )
    return tuple(problem.curves.values())
