"""What a searcher is given, and what it must do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits, project
from autoprune.core.costs import CostTable
from autoprune.core.projection import repair
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Candidate, Objective, Recipe, Trial, value
from autoprune.errors import UserError


@dataclass(frozen=True)
class SearchProblem:
    """Everything a searcher may know.

    Attributes:
        curves: sensitivity curves by criterion; empty if no sweep was made.
        importance: per group, `[width]` scores of its structures, higher is kept.
        trials: how many final candidates the search may judge.
        limits: what every candidate may cost, as whole numbers.
    """

    space: SearchSpace
    costs: CostTable
    limits: Limits
    trials: int
    seed: int = 0
    objective: Objective = "loss"
    recipe: Recipe = field(default_factory=Recipe)
    curves: Mapping[str, SensitivityCurves] = field(default_factory=dict)
    importance: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def project(self, widths: Mapping[str, int]) -> Allocation:
        """The allocation moved inside the space and onto every limit."""
        return project(widths, self.space, self.costs, self.limits)

    def repair(self, widths: Mapping[str, int]) -> Allocation:
        """The allocation moved inside the space and under every limit; what they leave is not filled."""
        return repair(widths, self.space, self.costs, self.limits)

    def candidate(self, number: int, allocation: Allocation) -> Candidate:
        """A final candidate under this problem's recipe and limits."""
        return Candidate(
            number, allocation, self.recipe, limits={str(kind): limit for kind, limit in self.limits.items()}
        )

    def generator(self, number: int) -> np.random.Generator:
        """The random draws of one candidate: a function of the seed and its number alone."""
        return np.random.default_rng([self.seed, number])


class Searcher(Protocol):
    """Asked for candidates, told trials; a deterministic function of its problem and of the sequence of both.

    `ask(n)` is n times `ask(1)`. Numbers count from 0 without gaps. No candidate is proposed twice; every one lies in
    the space and within the limits. Results may come in any order, failures come too.
    """

    def ask(self, limit: int) -> Sequence[Candidate]:
        """At most `limit` new candidates.

        An empty answer means that it waits for what runs, or has finished if nothing runs; then its state is as before.
        """

    def tell(self, trial: Trial) -> None:
        """Takes the outcome of a candidate it proposed."""


class History:
    """What a searcher asked and was told; the bookkeeping that every searcher shares.

    Attributes:
        asked: the candidates, each at the index of its number.
        told: number to trial, in the order in which they came.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self.problem = problem
        self.asked: list[Candidate] = []
        self.told: dict[int, Trial] = {}
        self._proposed: set[Allocation] = set()

    def __contains__(self, allocation: Allocation) -> bool:
        """Whether it was proposed before."""
        return allocation in self._proposed

    def first_new(self, allocations: Iterable[Allocation]) -> Allocation | None:
        """The first of some allocations that was not proposed before, or None."""
        return next((each for each in allocations if each not in self), None)

    @property
    def number(self) -> int:
        """The number of the next candidate."""
        return len(self.asked)

    @property
    def full(self) -> bool:
        """Whether as many candidates were asked for as the problem allows."""
        return self.number >= self.problem.trials

    def propose(self, allocation: Allocation) -> Candidate:
        """The next candidate, recorded. `allocation` must be new."""
        assert allocation not in self._proposed, f"{allocation!r} was proposed before"
        candidate = self.problem.candidate(self.number, allocation)
        self.asked.append(candidate)
        self._proposed.add(allocation)
        return candidate

    def tell(self, trial: Trial) -> None:
        """Records the outcome of a candidate.

        Raises:
            ValueError: it was never asked for, or was told before.
        """
        if not 0 <= trial.number < self.number or self.asked[trial.number].key != trial.candidate.key:
            raise ValueError(f"trial {trial.number} is none of the {self.number} candidates that were asked for")
        if trial.number in self.told:
            raise ValueError(f"trial {trial.number} was told before; tell each trial once")
        self.told[trial.number] = trial

    def best(self) -> Trial | None:
        """The trial of least value, the earliest number among equals; None while there is no score."""
        scored = [
            (value(trial.score, self.problem.objective), trial.number) for trial in self.told.values() if trial.score
        ]
        return self.told[min(scored)[1]] if scored else None


def ask_repeatedly(history: History, limit: int, find: Callable[[], Allocation | None]) -> list[Candidate]:
    """At most `limit` candidates, one by one, so that `ask(n)` is n times `ask(1)`.

    Args:
        find: a new allocation, or None if there is none now.
    """
    asked: list[Candidate] = []
    while len(asked) < limit and not history.full and (allocation := find()) is not None:
        asked.append(history.propose(allocation))
    return asked


class Given:
    """Proposes a list of allocations in turn, each once, and ends."""

    def __init__(self, problem: SearchProblem, allocations: Sequence[Allocation]) -> None:
        self._history = History(problem)
        self._allocations = tuple(dict.fromkeys(allocations))

    def ask(self, limit: int) -> Sequence[Candidate]:
        return ask_repeatedly(self._history, limit, self._next)

    def tell(self, trial: Trial) -> None:
        self._history.tell(trial)

    def _next(self) -> Allocation | None:
        return next((allocation for allocation in self._allocations if allocation not in self._history), None)


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
