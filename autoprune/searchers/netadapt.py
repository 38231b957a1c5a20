"""NetAdapt: round by round the one group is narrowed whose loss, after a short training, pays best.

Source: Yang et al. 2018, "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV,
arXiv:1804.03230, algorithm 1. In each round every group is narrowed by itself until the round's limits are kept, each
of these candidates is trained for a few steps from the weights that the last round left, and the best goes on.

We differ:

- The reductions are planned so that the limits are reached in a given number of rounds (see `rounds.plan`); the paper
  fixes the first reduction and its decay, and takes as many rounds as that needs.
- The winner is, unless told otherwise, the candidate with the least rise of the objective per saved share of the
  limited costs, as steps of wide groups overshoot the round's limits; the paper takes the highest accuracy. In the
  first round the objective alone decides.
- Where no group can keep the round's limits alone, each is narrowed as far as it goes, and the others share the rest
  alike (the projection). The paper stops there.
- Where fewer candidates are allowed than there are groups, a round tries those of which the sensitivity curves expect
  the least rise per saved share (without curves: those whose step costs the least of the scores), and says so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.budget import within
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.moves import widest_fitting
from autoprune.searchers.rounds import InRounds

ROUNDS = 10


class NetAdapt(InRounds):
    """Proposes, in each round, one candidate a group, narrowed to the round's limits."""

    admm = False

    def __init__(self, problem: SearchProblem) -> None:
        wanted = (problem.rounds and problem.rounds.count) or ROUNDS
        most = _most(problem)
        super().__init__(problem, max(1, min(wanted, most)))
        self._each = max(1, most // len(self.plan))
        groups = len(problem.space.names)
        if most < wanted:
            self.remarks.append(f"netadapt: {len(self.plan)} of {wanted} rounds, as only {most} trials are paid for")
        if self._each < groups:
            self.remarks.append(
                f"netadapt: the {self._each} most promising of {groups} groups are tried in each of {len(self.plan)} "
                f"rounds; all of them would take {groups * len(self.plan)} trials"
            )
        self._waiting: list[Allocation] = []
        self._trials: list[Trial] = []

    def _begin(self) -> None:
        names, bounds = self.problem.space.names, self.problem.space.bounds
        found = {name: allocation for name in names if (allocation := self._alone(name)) is not None}
        if found:
            self._waiting = list(self._promising(found).values())
        else:
            widths = self.widths
            least = {n: Allocation({**widths, n: bounds[n].lowest}) for n in names if bounds[n].lowest < widths[n]}
            self._waiting = list(dict.fromkeys(self._with_others(name) for name in self._promising(least)))
        if within(self.widths, self.problem.costs, self.limits):  # the last round: a coarse step went so far already
            self._waiting = [self.widths]
        self._trials = []

    def _promising(self, narrowed: Mapping[str, Allocation]) -> dict[str, Allocation]:
        """The most promising of the allocations that narrow one group each, in the order of the groups."""
        if len(narrowed) <= self._each:
            return dict(narrowed)
        before = self.problem.costs.costs(self.widths)
        order = sorted(narrowed, key=lambda name: self._promise(name, narrowed[name], before))
        chosen = set(order[: self._each])
        return {name: allocation for name, allocation in narrowed.items() if name in chosen}

    def _alone(self, name: str) -> Allocation | None:
        """The widest width of a group at which the round's limits are kept, all others as they are, if there is one."""
        widths = self.widths
        narrower = [level for level in self.problem.space.bounds[name].levels() if level < widths[name]]
        level = widest_fitting(self.problem, widths, name, narrower, self.limits)
        return None if level is None else Allocation({**widths, name: level})

    def _with_others(self, name: str) -> Allocation:
        """A group as narrow as it goes, and the others moved onto the round's limits."""
        ceilings = {**self.widths, name: self.problem.space.bounds[name].lowest}
        return self.narrowed(ceilings).project(ceilings)

    def _next(self) -> Candidate | None:
        return self.candidate(self._waiting.pop(0), self.trained) if self._waiting else None

    def _take(self, trial: Trial) -> None:
        self._trials.append(trial)

    def _winner(self) -> Trial | None:
        scored = [trial for trial in self._trials if trial.score]
        if not scored:
            return None
        if self.rounds.by == "value":
            return min(scored, key=lambda trial: (self.value(trial), trial.number))
        if self.parent is None:  # how much the dense network is worth nobody said, so no rise is known
            return min(scored, key=lambda trial: (self.value(trial), trial.number))
        begin, before = self.value(self.parent), self.problem.costs.costs(self.widths)

        def rise(trial: Trial) -> float:
            """Per saved cost; a fall counts more where more is saved."""
            found, saved = self.value(trial) - begin, self._saved(trial.candidate.allocation, before)
            return found / saved if found > 0 else found * saved

        return min(scored, key=lambda trial: (rise(trial), trial.number))

    def _saved(self, allocation: Mapping[str, int], before: Mapping[str, int]) -> float:
        """What an allocation saves of what was spent before, as shares of the limits, added up."""
        costs = self.problem.costs.costs(allocation)
        shares = [(before[kind] - costs[kind]) / limit for kind, limit in self.limits.items()]
        return max(sum(shares), 1e-12)

    def _promise(self, name: str, allocation: Mapping[str, int], before: Mapping[str, int]) -> float:
        """What narrowing a group is expected to cost per saved share; less is better."""
        return self._rise(name, allocation[name], self.widths[name]) / self._saved(allocation, before)

    def _rise(self, name: str, to: int, at: int) -> float:
        """By how much the curves let the objective rise; without curves the share of the scores that goes."""
        problem = self.problem
        if problem.curves:
            kind = problem.objective
            rises = [curves.at(name, to, kind) - curves.at(name, at, kind) for curves in problem.curves.values()]
            return sum(rises) / len(rises)
        scores = np.sort(problem.importance.get(name, np.ones(at)))[::-1]
        return float(scores[to:at].sum() / max(scores.sum(), 1e-12))


def _most(problem: SearchProblem) -> int:
    """How many candidates may be judged."""
    found = [problem.trials] if problem.trials is not None else []
    if problem.work is not None:
        price = max(problem.price, problem.rounds.price if problem.rounds else 0)
        found.append(problem.work // max(1, price))
    return min(found)
