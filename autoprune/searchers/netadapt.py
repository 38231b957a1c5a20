"""NetAdapt: round by round the one group is narrowed whose loss, after a short training, pays best.

Source: Yang et al. 2018, "NetAdapt: Platform-Aware Neural Network Adaptation for Mobile Applications", ECCV,
arXiv:1804.03230, algorithm 1. In each round every group is narrowed by itself until the round's limits are kept, each
of these candidates is trained for a few steps from the weights that the last round left, and the best goes on.

We differ:

- The reductions are planned so that the limits are reached in a given number of rounds (see `rounds.plan`); the paper
  fixes the first reduction and its decay, and takes as many rounds as that needs.
- The winner is, unless told otherwise, the candidate with the least rise of the objective per saved share of the
  limited costs, as steps of wide groups overshoot the round's limits; the paper takes the highest accuracy.
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
        found = [allocation for name in self.problem.space.names if (allocation := self._alone(name)) is not None]
        if not found and not within(self.widths, self.problem.costs, self.limits):
            found = [self._with_others(name) for name in self.problem.space.names]
        found = list(dict.fromkeys(found)) or [self.widths]
        order = sorted(range(len(found)), key=lambda i: (self._promise(found[i]), i))[: self._each]
        self._waiting, self._trials = [found[i] for i in sorted(order)], []

    def _alone(self, name: str) -> Allocation | None:
        """The widest width of a group at which the round's limits are kept, all others as they are, if there is one."""
        widths = self.widths
        for level in reversed(self.problem.space.bounds[name].levels()):
            narrowed = Allocation({**widths, name: level})
            if level < widths[name] and within(narrowed, self.problem.costs, self.limits):
                return narrowed
        return None

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
        base = min(map(self.value, scored))
        if self.parent is not None:
            base = min(base, self.value(self.parent))
        return min(
            scored,
            key=lambda trial: ((self.value(trial) - base) / self._saved(trial.candidate.allocation), trial.number),
        )

    def _saved(self, allocation: Mapping[str, int]) -> float:
        """What an allocation saves of this round's beginning, as shares of the limits, added up."""
        costs, before = (self.problem.costs.costs(each) for each in (allocation, self.widths))
        saved = sum((before[kind] - costs[kind]) / limit for kind, limit in self.limits.items())
        return max(saved, 1e-12)

    def _promise(self, allocation: Allocation) -> float:
        """What narrowing is expected to cost per saved share; less is better."""
        return self._expected_rise(allocation) / self._saved(allocation)

    def _expected_rise(self, allocation: Allocation) -> float:
        """By the curves, added over the groups that are narrowed; without curves the share of the scores that goes."""
        widths = self.widths
        return sum(
            self._rise(name, allocation[name], widths[name])
            for name in self.problem.space.names
            if allocation[name] < widths[name]
        )

    def _rise(self, name: str, to: int, at: int) -> float:
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
