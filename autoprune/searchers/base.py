"""What a searcher is given, and what it must do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits, project
from autoprune.core.costs import CostTable
from autoprune.core.projection import repair
from autoprune.core.recipe import Recipe
from autoprune.core.rounds import Rounds
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.settings import defaults
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Objective, Setting, Trial
from autoprune.errors import UserError


@dataclass(frozen=True)
class SearchProblem:
    """Everything a searcher may know.

    Attributes:
        curves: sensitivity curves by criterion; empty if no sweep was made.
        importance: per group, `[width]` scores of its structures, higher is kept.
        trials: how many final candidates the search may judge; None is as many as `work` allows.
        work: multiply-adds that judging candidates may take; None is as many as `trials` take.
        price: multiply-adds that judging one candidate takes at most.
        rungs: ascending numbers of images after which a judgement can end.
        limits: what every candidate may cost, as whole numbers.
        rounds: for searchers that work in rounds; None leaves it to them.

    Raises:
        ValueError: neither trials nor work are limited.
    """

    space: SearchSpace
    costs: CostTable
    limits: Limits
    trials: int | None
    seed: int = 0
    objective: Objective = "loss"
    recipe: Recipe = field(default_factory=Recipe)
    curves: Mapping[str, SensitivityCurves] = field(default_factory=dict)
    importance: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    work: int | None = None
    price: int = 0
    rungs: tuple[int, ...] = ()
    rounds: Rounds | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.work is None:
            raise ValueError("a search needs an end: a number of trials, or the work that they may take")

    def project(self, widths: Mapping[str, int]) -> Allocation:
        """The allocation moved inside the space and onto every limit."""
        return project(widths, self.space, self.costs, self.limits)

    def repair(self, widths: Mapping[str, int]) -> Allocation:
        """The allocation moved inside the space and under every limit; what they leave is not filled."""
        return repair(widths, self.space, self.costs, self.limits)

    def candidate(
        self,
        number: int,
        allocation: Allocation,
        bars: tuple[float | None, ...] = (),
        settings: Mapping[str, Setting] | None = None,
    ) -> Candidate:
        """A final candidate under this problem's recipe and limits; its settings are the defaults where None."""
        limits = {str(kind): limit for kind, limit in self.limits.items()}
        values = self.default_settings if settings is None else settings
        chosen = {name: values[name] for name in self.space.settings}
        return Candidate(number, allocation, self.recipe, chosen, limits=limits, bars=bars)

    @property
    def default_settings(self) -> Mapping[str, Setting]:
        """The values of the space's settings where they are not searched."""
        return defaults(self.space.settings)

    def generator(self, number: int) -> np.random.Generator:
        """The random draws of one candidate: a function of the seed and its number alone."""
        return np.random.default_rng([self.seed, number])


class Searcher(Protocol):
    """Asked for candidates, told trials; a deterministic function of its problem and of the sequence of both.

    `ask(n)` is n times `ask(1)`. Numbers count from 0 without gaps. No candidate is proposed twice; every one lies in
    the space and within the limits that it names: the problem's if it is final. Results may come in any order, failures
    come too.

    Attributes:
        uses_curves: whether sensitivity curves are of use to it, so that a sweep is worth its cost.
        parents: numbers of the trials whose weights a later candidate may start from.
        remarks: what the user should know, in the order in which it was found.
        handles_settings: whether it searches the settings of the space; else they keep their defaults.
    """

    uses_curves: ClassVar[bool]
    handles_settings: ClassVar[bool]

    @property
    def parents(self) -> frozenset[int]: ...

    @property
    def remarks(self) -> Sequence[str]: ...

    def __init__(self, problem: SearchProblem) -> None: ...

    def ask(self, limit: int) -> Sequence[Candidate]:
        """At most `limit` new candidates.

        An empty answer means that it waits for what runs, or has finished if nothing runs; then its state is as before.
        """

    def tell(self, trial: Trial) -> None:
        """Takes the outcome of a candidate it proposed."""


class Unparented:
    """What a searcher says whose candidates all start from the dense network, and which has nothing to remark."""

    @property
    def parents(self) -> frozenset[int]:
        return frozenset()

    @property
    def remarks(self) -> Sequence[str]:
        return ()


def measured_curves(problem: SearchProblem, searcher: str) -> tuple[SensitivityCurves, ...]:
    """The problem's sensitivity curves, in the order given.

    Raises:
        UserError: there are none.
    """
    if not problem.curves:
        raise UserError(
            f"searcher {searcher!r} needs sensitivity curves but none were measured; "
            "run the sweep first, or search with 'tpe' or 'random'"
        )
    return tuple(problem.curves.values())
