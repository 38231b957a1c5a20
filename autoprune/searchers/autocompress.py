"""AutoCompress: in rounds, annealing finds widths and ADMM draws the weights to them.

Source: Liu et al. 2019, "AutoCompress: An Automatic DNN Structured Pruning Framework for Ultra-High Compression Rates",
AAAI 2020, arXiv:1907.03141. Each round has limits between those of the round before and the run's. Annealing looks for
the round's allocation among networks that are pruned from the last round's weights and not trained; ADMM then draws
these weights to the best one found (see `autoprune.pruning.admm`), they are pruned and trained for a short while.

We differ:

- The annealing is ours (`annealing`: temperatures from the spread of the objective, trades that stay on the limits, a
  start from curves); the paper perturbs at random and discards what a heuristic about remaining weights forbids.
- The limits of the rounds are planned so that the last ones are the run's; the paper multiplies reductions that the
  user gives.
- Filters alone are pruned; the paper adds columns. Channels that layers share go from all of them.
- If the best allocation cannot be trained (a loss that is no number, say), the next best is tried, up to `TRIES`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.annealing import Annealing
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.rounds import InRounds
from autoprune.searchers.starts import starts
from autoprune.searchers.uniform import uniform_allocation

ROUNDS = 4
TRIES = 3
STARTS = 5
"""With how many allocations an annealing begins, at most half of its probes: standard starts, in later rounds uniform
and the best that the last round tried, moved onto the limits.
"""


class AutoCompress(InRounds):
    """Proposes, in each round, the probes of an annealing and then the best of them, to be trained by ADMM."""

    admm = True

    def __init__(self, problem: SearchProblem) -> None:
        wanted = (problem.rounds and problem.rounds.count) or ROUNDS
        count, probes = _affordable(problem, wanted)
        super().__init__(problem, count)
        if count < wanted:
            self.remarks.append(f"autocompress: {count} of {wanted} rounds, as no more are paid for")
        if probes < self.rounds.probes:
            self.remarks.append(
                f"autocompress: {probes} instead of {self.rounds.probes} allocations are tried in each of {count} "
                f"rounds; as many would take {count * (self.rounds.probes + 1)} trials"
            )
        self._probes = probes
        self._probed: list[Trial] = []

    def _begin(self) -> None:
        seed = int(np.random.SeedSequence([self.problem.seed, self._round]).generate_state(1)[0])
        inside = replace(self.narrowed(self.widths), trials=self._probes, work=None, seed=seed)
        known = [uniform_allocation(inside), *self._ranked_probes()] if self.parent else starts(inside)
        self._annealing = Annealing(inside, known[: max(1, min(STARTS, self._probes // 2))])
        self._probe_of: dict[int, Candidate] = {}
        self._probed = []
        self._trained: list[Trial] = []
        self._tried: list[Allocation] = []

    def _ranked_probes(self) -> list[Allocation]:
        """The allocations of the last annealing, best first."""
        scored = sorted((self.value(t), t.number, t.candidate.allocation) for t in self._probed if t.score)
        return [allocation for _, _, allocation in scored]

    def _next(self) -> Candidate | None:
        for probe in self._annealing.ask(1):
            found = self.candidate(probe.allocation, probe.recipe, "intermediate", probe.bars)
            self._probe_of[found.number] = probe
            return found
        if len(self._probed) < len(self._probe_of) or len(self._trained) < len(self._tried):
            return None
        if any(trial.score for trial in self._trained) or len(self._tried) == TRIES:
            return None
        return self._to_train()

    def _to_train(self) -> Candidate | None:
        """The best of what was found and not tried yet."""
        if self._tried and not self._can_try_again():
            return None
        left = [allocation for allocation in self._ranked_probes() if allocation not in self._tried]
        if not left:
            return None
        self._tried.append(left[0])
        return self.candidate(left[0], replace(self.trained, admm=self.rounds.admm))

    def _can_try_again(self) -> bool:
        """Whether one more training leaves enough for the rounds to come."""
        problem, left = self.problem, len(self.plan) - self._round - 1
        if problem.trials is not None and len(self._asked) + 1 + left * (self._probes + 1) > problem.trials:
            return False
        ahead = _price(problem) + left * (self._probes * problem.price + _price(problem))
        return problem.work is None or sum(trial.work for trial in self.told.values()) + ahead <= problem.work

    def _take(self, trial: Trial) -> None:
        probe = self._probe_of.get(trial.number)
        if probe is None:
            self._trained.append(trial)
        else:
            self._probed.append(trial)
            self._annealing.tell(replace(trial, candidate=probe))

    def _winner(self) -> Trial | None:
        return next((trial for trial in self._trained if trial.score), None)


def _affordable(problem: SearchProblem, wanted: int) -> tuple[int, int]:
    """How many rounds, and how many probes in each, the trials and the work allow; at least one of both."""
    probes = problem.rounds.probes if problem.rounds else 20
    for rounds in range(wanted, 0, -1):
        most = _most_probes(problem, rounds)
        if most >= 1 or rounds == 1:
            return rounds, max(1, min(probes, most))
    raise AssertionError("the loop ends with one round")


def _most_probes(problem: SearchProblem, rounds: int) -> int:
    """How many probes of a round can be paid for beside its training."""
    found = [problem.trials // rounds - 1] if problem.trials is not None else []
    if problem.work is not None:
        found.append((problem.work // rounds - _price(problem)) // max(1, problem.price))
    return min(found)


def _price(problem: SearchProblem) -> int:
    """What the training of a round takes at most."""
    return max(problem.price, problem.rounds.price if problem.rounds else 0)
