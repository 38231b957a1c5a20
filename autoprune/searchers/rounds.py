"""What searches share that go to their limits in rounds, each from the weights that the round before left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits, within
from autoprune.core.recipe import Recipe
from autoprune.core.rounds import Rounds
from autoprune.core.trial import Candidate, Role, Trial, value
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import Bars


def plan(problem: SearchProblem, rounds: int) -> list[Limits]:
    """The limits of each round, from what the widest allocation costs down; the last are the problem's.

    Every round takes the same share of what the one before left, so that reductions shrink from round to round as in
    NetAdapt, and none asks for more of its network than another. (By that paper's decay of 0.96 the last of ten rounds
    to a fifth of the FLOPs would take a quarter of what it begins with.) A limit that the widest allocation keeps holds
    from the first round on.
    """
    widest = problem.costs.costs(problem.space.widest())
    between = [
        {kind: _left(widest[kind], limit, number / rounds) for kind, limit in problem.limits.items()}
        for number in range(1, rounds)
    ]
    return [*between, dict(problem.limits)]


def _left(begin: int, end: int, share: float) -> int:
    """What of a cost is left after this share of the rounds."""
    return end if begin <= end else max(end, int(begin * (end / begin) ** share))


class InRounds(ABC):
    """Asks for the candidates of one round after the other; the next begins when all of the last are told.

    Candidates of the last round are final, those before intermediate. The search ends early, with a remark, if a round
    leaves nothing to go on from.

    Attributes:
        admm: whether candidates are trained by ADMM.
        remarks: what the user should know, in the order in which it was found.
    """

    uses_curves: ClassVar[bool] = True
    handles_settings: ClassVar[bool] = False
    admm: ClassVar[bool]

    def __init__(self, problem: SearchProblem, rounds: int) -> None:
        self.problem, self.rounds = problem, problem.rounds or Rounds()
        self.plan = plan(problem, rounds)
        self.remarks: list[str] = []
        self.told: dict[int, Trial] = {}
        self.parent: Trial | None = None
        self._asked: list[Candidate] = []
        self._round = -1
        self._over = False

    def ask(self, limit: int) -> Sequence[Candidate]:
        found: list[Candidate] = []
        while len(found) < limit and (candidate := self._ask()) is not None:
            self._asked.append(candidate)
            found.append(candidate)
        return found

    def tell(self, trial: Trial) -> None:
        """Records the outcome of a candidate.

        Raises:
            ValueError: it was never asked for, or was told before.
        """
        if not 0 <= trial.number < len(self._asked) or self._asked[trial.number].key != trial.candidate.key:
            raise ValueError(f"trial {trial.number} is none of the {len(self._asked)} candidates that were asked for")
        if trial.number in self.told:
            raise ValueError(f"trial {trial.number} was told before; tell each trial once")
        self.told[trial.number] = trial
        self._take(trial)

    @property
    def parents(self) -> frozenset[int]:
        """Trials whose weights a later candidate may start from: this round's parent, and what may follow it."""
        if self._over:
            return frozenset()
        known = {self.parent.number} if self.parent else set()
        best = self._winner()
        return frozenset(known | ({best.number} if best else set()))

    def _ask(self) -> Candidate | None:
        while not self._over:
            candidate = self._next() if self._round >= 0 else None
            if candidate is not None:
                return candidate
            if len(self.told) < len(self._asked):
                return None  # the round waits for what runs
            self._advance()
        return None

    def _advance(self) -> None:
        """Ends the round and begins the next that has something to reduce."""
        if self._round >= 0:
            winner = self._winner()
            if winner is None:
                self._give_up()
                return
            self.parent = winner
        self._round += 1
        while self._round < len(self.plan) - 1 and within(self.widths, self.problem.costs, self.limits):
            self._round += 1  # a coarse step has gone so far already
        if self._round == len(self.plan):
            self._over = True
            return
        self._begin()

    def _give_up(self) -> None:
        self._over = True
        self.remarks.append(
            f"round {self._round + 1} of {len(self.plan)}: none of its candidates could be scored, so that there is "
            "nothing to go on from"
        )

    def candidate(self, allocation: Allocation, recipe: Recipe, role: Role | None = None, bars: Bars = ()) -> Candidate:
        """The next candidate of this round."""
        limits = {str(kind): limit for kind, limit in self.limits.items()}
        parent = self.parent.number if self.parent else None
        role = role or ("final" if self.last else "intermediate")
        settings = self.problem.default_settings
        return Candidate(len(self._asked), allocation, recipe, settings, parent, role, limits, bars)

    @property
    def limits(self) -> Limits:
        """Those of this round."""
        return self.plan[self._round]

    @property
    def last(self) -> bool:
        """Whether this round is the last."""
        return self._round == len(self.plan) - 1

    @property
    def widths(self) -> Allocation:
        """Where this round begins: the parent's widths, or the widest."""
        return self.parent.candidate.allocation if self.parent else self.problem.space.widest()

    @property
    def trained(self) -> Recipe:
        """The recipe of a candidate that is trained."""
        return replace(self.problem.recipe, finetune=self.rounds.finetune or self.problem.recipe.finetune)

    def value(self, trial: Trial) -> float:
        """What the search minimises, of a trial that has a score."""
        assert trial.score is not None
        return value(trial.score, self.problem.objective)

    def narrowed(self, ceilings: Mapping[str, int]) -> SearchProblem:
        """The problem under this round's limits, with no group wider than its ceiling."""
        return replace(self.problem, space=self.problem.space.narrowed(ceilings), limits=self.limits)

    @abstractmethod
    def _begin(self) -> None:
        """Prepares the round's candidates."""

    @abstractmethod
    def _next(self) -> Candidate | None:
        """The next candidate of the round; None if it has no other, or must wait."""

    @abstractmethod
    def _take(self, trial: Trial) -> None:
        """Takes an outcome of the round."""

    @abstractmethod
    def _winner(self) -> Trial | None:
        """The trial of the round, as far as it is told, that the next one starts from."""
