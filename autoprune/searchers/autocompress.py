"""AutoCompress: each round anneals over allocations and then draws the weights to the best one by ADMM.

Source: Liu et al. 2019, "AutoCompress: An Automatic DNN Structured Pruning Framework for Ultra-High Compression Rates",
arXiv:1907.03141: rounds of a moderate reduction each, in which simulated annealing chooses the layers' pruning rates,
ADMM prunes by them, and the result, fine-tuned, is what the next round begins with. We differ:

- The annealing is `annealing`'s, among the allocations that keep the round's limits and are nowhere wider than the
  parent. It begins with the parent's widths projected, and then as a search of its own (by curves of the dense network,
  still the best guess), in place of the paper's rules of experience.
- Its candidates start from the parent's weights and are evaluated without training.
- If the training of a round's best allocation fails, the next best ones are tried, `TRIES` in all.
- What the groups lose are whole structures; the paper also removes columns, and purifies afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Candidate, Trial, value
from autoprune.searchers.annealing import Annealing
from autoprune.searchers.base.iterative import IterativeSearcher, Round, RoundSpec
from autoprune.searchers.knapsack import standard_starts

LEAST_PROBES = 8
"""Probes that a round should have: with fewer, hardly more than its starts are evaluated."""
TRIES = 3
"""How many of a round's allocations are trained, if the training of the best ones fails."""


class AutoCompress(IterativeSearcher):
    """Proposes, round by round, an annealing's candidates, and then one that is trained."""

    is_random = True
    count = 4
    probed = True

    def _training_recipe(self, recipe: Recipe) -> Recipe:
        settings = self._settings
        return replace(recipe, admm=settings.admm, finetune=settings.finetune or recipe.finetune)

    def _least_candidates(self) -> int:
        return min(LEAST_PROBES, self._settings.probes)

    def _fewer_candidates(self, share: int) -> tuple[str, ...]:
        wanted = self._settings.probes
        if share >= wanted:
            return ()
        bound = self._compute_budget.bound(self._plan)
        return (f"{share} of {wanted} probes are made in each of {len(self._plan)} rounds, as {bound} allows no more",)

    def _make_round(self, spec: RoundSpec) -> Round:
        return _AnnealingRound(spec, min(self._settings.probes, spec.share))


class _AnnealingRound(Round):
    """An annealing, and the training of the best that it found."""

    def __init__(self, spec: RoundSpec, probes: int) -> None:
        super().__init__(spec)
        # Where the limits are kept already there is nothing to look for.
        self._annealing = None if spec.is_reached else _annealing(spec, probes)
        self._probes: dict[int, Candidate] = {}
        self._tried: list[Allocation] = []
        self._passed_on = 0

    def next(self, number: int, spare: bool) -> Candidate | None:
        self._tell_annealing()
        for probe in self._annealing.ask(1) if self._annealing and not self._tried else ():
            self._probes[number] = probe
            return replace(probe, number=number)
        if len(self.told) < len(self._probes) + len(self._tried) or self.is_over:
            return None
        if self._tried and (not spare or len(self._tried) == TRIES):
            return None
        allocation = next((each for each in self._by_value() if each not in self._tried), None)
        if allocation is None:
            return None
        self._tried.append(allocation)
        return self.spec.candidate(number, allocation)

    def _tell_annealing(self) -> None:
        for trial in self.told[self._passed_on :]:
            if self._annealing is not None and trial.number in self._probes:
                self._annealing.tell(replace(trial, candidate=self._probes[trial.number]))
        self._passed_on = len(self.told)

    def _by_value(self) -> list[Allocation]:
        """Returns the allocations probed, best first."""
        if self.spec.is_reached:
            return [self.spec.start]
        scored = [trial for trial in self.told if trial.score and trial.number in self._probes]
        order = sorted(scored, key=lambda trial: (self.rank(trial), trial.number))
        return [trial.candidate.allocation for trial in order]

    @property
    def contenders(self) -> Sequence[Trial]:
        return [trial for trial in self.told if trial.number not in self._probes]

    def rank(self, trial: Trial) -> float:
        assert trial.score is not None
        return value(trial.score, self.spec.problem.objective)

    @property
    def is_over(self) -> bool:
        return self.best is not None


def _annealing(spec: RoundSpec, probes: int) -> Annealing:
    seed = int(np.random.SeedSequence([spec.problem.seed, spec.number]).generate_state(1)[0])
    problem = replace(spec.problem, trials=probes, seed=seed, role="intermediate")
    return Annealing(problem, [spec.start, *standard_starts(problem)])
