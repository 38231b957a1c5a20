"""How many candidates each round of a search may have, so that the trials and the work suffice for all rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.budget import Limits
from autoprune.core.recipe import Recipe
from autoprune.core.work import greatest_macs, training_work
from autoprune.searchers.history import History


@dataclass(frozen=True)
class Allowance:
    """What a history leaves for rounds.

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
        """How many candidates each of the rounds may have, the same in all; probes, where there are any."""
        found = [self._by_trials(rounds)] if self.history.problem.trials is not None else []
        found += [self._by_work(rounds)] if self.history.problem.work is not None else []
        return min(found)

    def spares_one(self, now: Limits, later: Sequence[Limits]) -> bool:
        """Whether another trained candidate within the limits of now leaves every later round one of each sort."""
        problem, left = self.history.problem, len(later) * (1 + self.probed)
        if problem.trials is not None and problem.trials - self.history.number - 1 < left:
            return False
        least = self._trained(now) + sum(self._trained(each) + self.probed * self._judged(each) for each in later)
        return problem.work is None or self.history.spent + least <= problem.work

    def bound(self, rounds: Sequence[Limits]) -> str:
        """What it is that allows the rounds no more candidates."""
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
        return (left - trained) // max(sum(map(self._judged, rounds)), 1)

    def _trained(self, limits: Limits) -> int:
        """Multiply-adds that a trained candidate within the limits takes at most."""
        costs = self.history.problem.costs
        macs, dense = greatest_macs(costs, limits), greatest_macs(costs, {})
        # Towards being pruned a network is trained in its dense shape.
        drawn, tuned = training_work(self.recipe.admm, dense, dense), training_work(self.recipe.finetune, macs, dense)
        return self._judged(limits) + drawn + tuned

    def _judged(self, limits: Limits) -> int:
        """Multiply-adds that a candidate within the limits takes at most under the problem's recipe."""
        problem = self.history.problem
        own, macs = greatest_macs(problem.costs, problem.limits), greatest_macs(problem.costs, limits)
        return -(-problem.price * macs // max(own, 1))
