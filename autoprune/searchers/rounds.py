"""The rounds of a search: how far each goes, and what it is while it goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits, within
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Candidate, Trial, reasons
from autoprune.searchers.base import SearchProblem


def plan(widest: Mapping[str, int], limits: Limits, count: int) -> list[Limits]:
    """The limits of each of `count` rounds, from what the widest allocation costs down; the last are the limits.

    Every round takes the same share of what the one before left. So reductions shrink from round to round by a
    constant factor, as in NetAdapt, and none asks for more of its network than another. (By the paper's 0.96 the last
    of ten rounds to a fifth of the FLOPs would have to take a quarter of what it begins with.)

    A limit that the widest allocation keeps is the same in all rounds.
    """
    between = [
        {kind: _left(widest[kind], limit, number / count) for kind, limit in limits.items()}
        for number in range(1, count)
    ]
    return [*between, dict(limits)]


def _left(begin: int, end: int, share: float) -> int:
    """What of a cost is left after this share of the rounds."""
    return end if begin <= end else max(end, int(begin * (end / begin) ** share))


@dataclass(frozen=True)
class Leg:
    """Where a round begins and how far it goes.

    Attributes:
        number: counts from 1.
        count: how many rounds there are.
        problem: the search within the round: its limits, parent and role, the parent's widths as ceilings, and as its
            trials the candidates that it may have (see `Allowance.share`).
        parent: the trial that it starts from; None is the dense network.
        recipe: of the candidates that are trained.
    """

    number: int
    count: int
    problem: SearchProblem
    parent: Trial | None
    recipe: Recipe

    @property
    def before(self) -> Allocation:
        """The widths that it begins with."""
        return self.problem.space.widest()

    @property
    def kept(self) -> bool:
        """Whether the widths that it begins with keep its limits already, as after a coarse step."""
        return within(self.before, self.problem.costs, self.problem.limits)

    @property
    def share(self) -> int:
        """How many candidates the round may have; probes, where there are any."""
        assert self.problem.trials is not None
        return self.problem.trials

    def __str__(self) -> str:
        limits = ", ".join(f"{kind} at most {limit:,}" for kind, limit in self.problem.limits.items())
        return f"round {self.number} of {self.count} ({limits})"


class Round(ABC):
    """One round while it goes on.

    Attributes:
        leg: where it begins and how far it goes.
        told: its trials, in the order told.
    """

    def __init__(self, leg: Leg) -> None:
        self.leg = leg
        self.told: list[Trial] = []

    @abstractmethod
    def next(self, number: int, spare: bool) -> Candidate | None:
        """A new candidate of this number; None while it waits for trials, and when it has no more.

        Args:
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
        """What the best of the contenders has the least of; of equal ones the earlier number is the best."""

    @property
    def best(self) -> Trial | None:
        """The contender that the next round would start from; None while none has a score."""
        scored = [trial for trial in self.contenders if trial.score]
        return min(scored, key=lambda trial: (self.rank(trial), trial.number)) if scored else None

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether it has a best that cannot change any more."""

    def why_failed(self) -> str:
        """What to say if it ends without a best."""
        tried = self.contenders or self.told
        return f"{self.leg} failed: none of {len(tried)} candidates could be scored ({reasons(tried)})"
