"""What searches share that go to their limits in rounds, each from the weights that the round before left."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from autoprune.core.budget import Limits
from autoprune.core.recipe import Recipe
from autoprune.core.rounds import Rounds
from autoprune.core.settings import FINETUNE
from autoprune.core.trial import Candidate, Trial
from autoprune.errors import UserError
from autoprune.searchers.allowance import Allowance
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import Remembering
from autoprune.searchers.rounds import Leg, Round, plan


class InRounds(Remembering):
    """Proposes the candidates of one round after the other; a round begins when all trials of the last are told.

    The candidates of the last round are final. A round whose limits its parent keeps already is skipped, but for the
    last: there the parent's own allocation is the candidate. If no candidate of a round can be scored, the search ends.

    Attributes:
        count: how many rounds there are where the experiment does not say.
        probed: whether a round has candidates that are not trained, and one that is.
    """

    uses_curves: ClassVar[bool] = True
    handles_settings: ClassVar[bool] = False
    count: ClassVar[int]
    probed: ClassVar[bool]

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(_without_finetune(problem))
        self._settings = problem.rounds or Rounds()
        self._recipe = self._trained(problem.recipe)
        self._allowance = Allowance(self._history, self._recipe, self.probed)
        self._plan = self._affordable_plan()
        self._remarks = self._fewer_rounds() + self._fewer_candidates(self._allowance.share(self._plan))
        self._failure: str | None = None
        self._parent: Trial | None = None
        self._begun = 0
        self._round: Round | None = self._begin()

    def ask(self, limit: int) -> Sequence[Candidate]:
        asked: list[Candidate] = []
        while len(asked) < limit and self._round is not None:
            candidate = self._round.next(self._history.number, self._spare())
            if candidate is not None:
                asked.append(self._history.record(candidate))
            elif len(self._history.told) < self._history.number:
                break  # the round waits for what runs
            else:
                self._round = self._after(self._round)
        return asked

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        assert self._round is not None, "no candidate runs when the rounds are over"
        self._round.tell(trial)
        if self._round.over:
            self._round = self._after(self._round)

    @property
    def parents(self) -> frozenset[int]:
        """The trial that the round starts from, and the one that the next round would start from."""
        if self._round is None:
            return frozenset()
        return frozenset(trial.number for trial in (self._parent, self._round.best) if trial is not None)

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._remarks

    @property
    def failure(self) -> str | None:
        return self._failure

    @abstractmethod
    def _trained(self, recipe: Recipe) -> Recipe:
        """The recipe of the candidates whose weights the next round may start from."""

    @abstractmethod
    def _least(self) -> int:
        """How many candidates a round should have at least; rather than to have fewer, rounds are left out."""

    @abstractmethod
    def _fewer_candidates(self, share: int) -> tuple[str, ...]:
        """What to say where `share` candidates a round are fewer than wanted."""

    @abstractmethod
    def _make(self, leg: Leg) -> Round:
        """A round that begins now."""

    def _affordable_plan(self) -> list[Limits]:
        """As many rounds as wanted, or as can have `_least` candidates each.

        Raises:
            UserError: not even one round with one candidate is allowed.
        """
        problem, rounds = self._history.problem, [self._history.problem.limits]
        widest = problem.costs.costs(problem.space.widest())
        for count in range(self._settings.count or self.count, 0, -1):
            rounds = plan(widest, problem.limits, count)
            if self._allowance.share(rounds) >= (self._least() if count > 1 else 1):
                return rounds
        raise UserError(
            f"{self._allowance.bound(rounds)} does not suffice for one round of {1 + self.probed} or more candidates, "
            "one of them trained; allow more, or shorten search.rounds.finetune and search.rounds.admm"
        )

    def _fewer_rounds(self) -> tuple[str, ...]:
        wanted, count = self._settings.count or self.count, len(self._plan)
        if count == wanted:
            return ()
        return (f"{count} of {wanted} rounds are made, as {self._allowance.bound(self._plan)} allows no more",)

    def _begin(self) -> Round:
        """The next round that has something to do; the last one has."""
        while True:
            leg = self._next_leg()
            self._begun += 1
            if not leg.kept or self._begun == len(self._plan):
                return self._make(leg)

    def _next_leg(self) -> Leg:
        problem, parent, number = self._history.problem, self._parent, self._begun + 1
        widths = problem.space.widest() if parent is None else parent.candidate.allocation
        within_round = replace(
            problem,
            space=problem.space.narrowed(widths),
            limits=self._plan[self._begun],
            trials=max(self._allowance.share(self._plan[self._begun :]), 1),
            work=None,
            parent=None if parent is None else parent.number,
            role="final" if number == len(self._plan) else "intermediate",
        )
        return Leg(number, len(self._plan), within_round, parent, self._recipe)

    def _after(self, done: Round) -> Round | None:
        """The round after this one; None if that was the last, or leaves nothing to go on from."""
        if done.best is None:
            self._failure = done.why_failed()
            return None
        self._parent = done.best
        return self._begin() if self._begun < len(self._plan) else None

    def _spare(self) -> bool:
        return self._allowance.spares_one(self._plan[self._begun - 1], self._plan[self._begun :])


def _without_finetune(problem: SearchProblem) -> SearchProblem:
    """The problem without settings of the fine-tuning, as rounds say themselves how they train."""
    left = {name: each for name, each in problem.space.settings.items() if not name.startswith(FINETUNE)}
    return replace(problem, space=replace(problem.space, settings=left))
