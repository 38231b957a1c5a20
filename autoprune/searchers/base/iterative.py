"""Searches that reach their limits in rounds, each from the weights that the round before left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits
from autoprune.core.costs import within
from autoprune.core.recipe import Recipe, Rounds
from autoprune.core.settings import FINETUNE
from autoprune.core.trial import Candidate, Trial, reasons
from autoprune.errors import UserError
from autoprune.searchers.base.history import History
from autoprune.searchers.base.searcher import SearchProblem


@dataclass(frozen=True)
class RoundBudget:
    """The candidates and the work that a search has left for its rounds.

    Attributes:
        history: what was asked and spent so far; nothing runs where this is asked.
        recipe: of the candidates that are trained.
        probed: whether a round has one such candidate, and else candidates under the problem's own recipe; all of a
            round's candidates are trained where not.
    """

    history: History
    recipe: Recipe
    probed: bool

    def share(self, rounds: Sequence[Limits]) -> int:
        """Returns how many candidates each of the rounds may have, the same in all; probes, where there are any."""
        found = [self._by_trials(rounds)] if self.history.problem.trials is not None else []
        found += [self._by_work(rounds)] if self.history.problem.work is not None else []
        return min(found)

    def spares_one(self, now: Limits, later: Sequence[Limits]) -> bool:
        """Returns whether one more trained candidate of this round leaves every later round one candidate of each sort.

        Args:
            now: the limits of this round.
            later: those of the rounds to come.
        """
        problem, left = self.history.problem, len(later) * (1 + self.probed)
        if problem.trials is not None and problem.trials - self.history.number - 1 < left:
            return False
        least = self._trained(now) + sum(
            self._trained(each) + self.probed * self._evaluation_work(each) for each in later
        )
        return problem.work is None or self.history.spent + least <= problem.work

    def bound(self, rounds: Sequence[Limits]) -> str:
        """Names the limit that allows the rounds no more candidates."""
        trials = self.history.problem.trials
        if trials is not None and self.share(rounds) == self._by_trials(rounds):
            return f"the limit of {trials} trial" + "s" * (trials != 1)
        return "the limit on evaluations"

    def _by_trials(self, rounds: Sequence[Limits]) -> int:
        assert self.history.problem.trials is not None
        return (self.history.problem.trials - self.history.number) // len(rounds) - self.probed

    def _by_work(self, rounds: Sequence[Limits]) -> int:
        assert self.history.problem.work is not None
        left = self.history.problem.work - self.history.spent
        trained = sum(map(self._trained, rounds))
        if not self.probed:
            return left // max(trained, 1)
        return (left - trained) // max(sum(map(self._evaluation_work, rounds)), 1)

    def _trained(self, limits: Limits) -> int:
        """Returns the multiply-adds that a trained candidate within the limits takes at most."""
        costs = self.history.problem.costs
        training = replace(self.recipe, recalibrate=0, reconstruct=0)
        return self._evaluation_work(limits) + training.work(costs.max_macs(limits), costs.max_macs({}))

    def _evaluation_work(self, limits: Limits) -> int:
        """Returns the multiply-adds that a candidate within the limits takes at most under the problem's recipe."""
        problem = self.history.problem
        own, macs = problem.costs.max_macs(problem.limits), problem.costs.max_macs(limits)
        return -(-problem.price * macs // max(own, 1))


def plan(widest: Mapping[str, int], limits: Limits, count: int) -> list[Limits]:
    """Returns the limits of `count` rounds, from what the widest allocation costs down; the last are the limits.

    Every round takes the same share of what the one before left. So reductions shrink from round to round by a
    constant factor, as in NetAdapt, and none asks for more of its network than another. (By the paper's 0.96 the last
    of ten rounds to a fifth of the FLOPs would have to take a quarter of what it begins with.)

    A limit that the widest allocation keeps is the same in all rounds.

    Args:
        widest: every cost of the widest allocation.
        limits: of the last round.
        count: how many rounds there are, 1 at least.
    """
    between = [
        {kind: _left(widest[kind], limit, number / count) for kind, limit in limits.items()}
        for number in range(1, count)
    ]
    return [*between, dict(limits)]


def _left(begin: int, end: int, share: float) -> int:
    """Returns the cost that is left after this share of the rounds."""
    return end if begin <= end else max(end, int(begin * (end / begin) ** share))


@dataclass(frozen=True)
class RoundSpec:
    """The start and the aim of a round.

    Attributes:
        number: counts from 1.
        count: how many rounds there are.
        problem: the search within the round: its limits, parent and role, the parent's widths as ceilings, and as its
            trials the candidates that it may have (see `RoundBudget.share`).
        parent: the trial that it starts from; None is the dense network.
        recipe: of the candidates that are trained.
    """

    number: int
    count: int
    problem: SearchProblem
    parent: Trial | None
    recipe: Recipe

    @property
    def start(self) -> Allocation:
        """The widths that it begins with."""
        return self.problem.space.widest()

    @property
    def is_reached(self) -> bool:
        """Whether the widths that it begins with are within its limits already, as after a coarse step."""
        return within(self.start, self.problem.costs, self.problem.limits)

    @property
    def share(self) -> int:
        """The number of candidates that the round may have; of probes, where there are any."""
        assert self.problem.trials is not None
        return self.problem.trials

    def candidate(self, number: int, allocation: Allocation) -> Candidate:
        """Returns a candidate of the round that is trained."""
        return replace(self.problem, recipe=self.recipe).candidate(number, allocation)

    def __str__(self) -> str:
        limits = ", ".join(f"{kind} at most {limit:,}" for kind, limit in self.problem.limits.items())
        return f"round {self.number} of {self.count} ({limits})"


class Round(ABC):
    """A round in progress.

    Attributes:
        spec: where it begins and how far it goes.
        told: its trials, in the order told.
    """

    def __init__(self, spec: RoundSpec) -> None:
        self.spec = spec
        self.told: list[Trial] = []

    @abstractmethod
    def next(self, number: int, spare: bool) -> Candidate | None:
        """Returns a new candidate; None while it waits for trials, and when it has no more.

        Args:
            number: of the candidate.
            spare: whether a trained candidate more than planned leaves enough for the rounds to come.
        """

    def tell(self, trial: Trial) -> None:
        """Takes the outcome of one of its candidates."""
        self.told.append(trial)

    @property
    @abstractmethod
    def contenders(self) -> Sequence[Trial]:
        """The trials told that the next round could start from if they have a score."""

    @abstractmethod
    def rank(self, trial: Trial) -> float:
        """Returns what is least for the best of the contenders; of equal ones the earlier number is the best."""

    @property
    def best(self) -> Trial | None:
        """The contender that the next round would start from; None while none has a score."""
        scored = [trial for trial in self.contenders if trial.score]
        return min(scored, key=lambda trial: (self.rank(trial), trial.number)) if scored else None

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether it has a best that cannot change any more."""

    def why_failed(self) -> str:
        """Returns the message where it ends without a best."""
        tried = self.contenders or self.told
        return f"{self.spec} failed: none of {len(tried)} candidates could be scored ({reasons(tried)})"


class IterativeSearcher(ABC):
    """Proposes the candidates of one round after the other; a round begins when all trials of the last are told.

    The candidates of the last round are final. A round whose limits its parent keeps already is skipped, but for the
    last: there the parent's own allocation is the candidate. If no candidate of a round can be scored, the search ends.

    Attributes:
        count: how many rounds there are where the experiment does not say.
        probed: whether a round has candidates that are not trained, and one that is.
    """

    uses_curves: ClassVar[bool] = True
    needs_curves: ClassVar[bool] = False
    handles_settings: ClassVar[bool] = False
    works_in_rounds: ClassVar[bool] = True
    fills_budget: ClassVar[bool] = True
    is_random: ClassVar[bool]
    remarks: tuple[str, ...] = ()
    failure: str | None = None
    count: ClassVar[int]
    probed: ClassVar[bool]

    def __init__(self, problem: SearchProblem) -> None:
        self._history = History(_without_finetune(problem))
        self._settings = problem.rounds or Rounds()
        self._recipe = self._training_recipe(problem.recipe)
        self._compute_budget = RoundBudget(self._history, self._recipe, self.probed)
        self._plan = self._affordable_plan()
        self.remarks = self._fewer_rounds() + self._fewer_candidates(self._compute_budget.share(self._plan))
        self._parent: Trial | None = None
        self._begun = 0
        self._round: Round | None = self._begin()

    def ask(self, limit: int) -> Sequence[Candidate]:
        asked: list[Candidate] = []
        while len(asked) < limit and self._round is not None:
            spare = self._compute_budget.spares_one(self._plan[self._begun - 1], self._plan[self._begun :])
            candidate = self._round.next(self._history.number, spare)
            if candidate is not None:
                asked.append(self._history.record(candidate))
            elif len(self._history.told) < self._history.number:
                break  # the round waits for what runs
            else:
                self._round = self._after(self._round)
        return asked

    def tell(self, trial: Trial) -> None:
        self._history.tell(trial)
        assert self._round is not None, "no candidate runs when the rounds are over"
        self._round.tell(trial)
        if self._round.is_over:
            self._round = self._after(self._round)

    @property
    def parents(self) -> frozenset[int]:
        """The trial that the round starts from, and the one that the next round would start from."""
        if self._round is None:
            return frozenset()
        return frozenset(trial.number for trial in (self._parent, self._round.best) if trial is not None)

    @abstractmethod
    def _training_recipe(self, recipe: Recipe) -> Recipe:
        """Returns the recipe of the candidates whose weights the next round may start from."""

    @abstractmethod
    def _least_candidates(self) -> int:
        """Returns the least candidates that a round should have; rather than to have fewer, rounds are left out."""

    @abstractmethod
    def _fewer_candidates(self, share: int) -> tuple[str, ...]:
        """Returns remarks where `share` candidates a round are fewer than wanted."""

    @abstractmethod
    def _make_round(self, spec: RoundSpec) -> Round:
        """Begins a round."""

    def _affordable_plan(self) -> list[Limits]:
        """Plans as many rounds as wanted, or as can have `_least_candidates` candidates each.

        Raises:
            UserError: not even one round with one candidate is allowed.
        """
        problem, rounds = self._history.problem, [self._history.problem.limits]
        widest = problem.costs.costs(problem.space.widest())
        for count in range(self._settings.count or self.count, 0, -1):
            rounds = plan(widest, problem.limits, count)
            if self._compute_budget.share(rounds) >= (self._least_candidates() if count > 1 else 1):
                return rounds
        raise UserError(
            f"{self._compute_budget.bound(rounds)} does not suffice for one round of {1 + self.probed} or more "
            "candidates, one of them trained; allow more, or shorten search.rounds.finetune and search.rounds.admm"
        )

    def _fewer_rounds(self) -> tuple[str, ...]:
        wanted, count = self._settings.count or self.count, len(self._plan)
        if count == wanted:
            return ()
        return (f"{count} of {wanted} rounds are made, as {self._compute_budget.bound(self._plan)} allows no more",)

    def _begin(self) -> Round:
        """Begins the next round that has something to do; the last one has."""
        while True:
            spec = self._next_spec()
            self._begun += 1
            if not spec.is_reached or self._begun == len(self._plan):
                return self._make_round(spec)

    def _next_spec(self) -> RoundSpec:
        problem, parent, number = self._history.problem, self._parent, self._begun + 1
        widths = problem.space.widest() if parent is None else parent.candidate.allocation
        within_round = replace(
            problem,
            space=problem.space.narrowed(widths),
            limits=self._plan[self._begun],
            trials=max(self._compute_budget.share(self._plan[self._begun :]), 1),
            work=None,
            parent=None if parent is None else parent.number,
            role="final" if number == len(self._plan) else "intermediate",
        )
        return RoundSpec(number, len(self._plan), within_round, parent, self._recipe)

    def _after(self, done: Round) -> Round | None:
        """Begins the round after this one; returns None if that was the last, or leaves nothing to go on from."""
        if done.best is None:
            self.failure = done.why_failed()
            return None
        self._parent = done.best
        return self._begin() if self._begun < len(self._plan) else None


def _without_finetune(problem: SearchProblem) -> SearchProblem:
    """Returns the problem without settings of the fine-tuning, as rounds say themselves how they train."""
    left = {name: each for name, each in problem.space.settings.items() if not name.startswith(FINETUNE)}
    return replace(problem, space=replace(problem.space, settings=left))
