"""The compute that a run may take in all, and what is left of it for candidates; in multiply-adds (see `Recipe.work`).

Counted are the dense reference, the sweep, the candidates and the finalists. What only the final table needs (the
uniform allocation where no trial was it, the test samples) is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.core.budget import Limits
from autoprune.core.recipe import Recipe
from autoprune.core.sensitivity import sweep_grid
from autoprune.core.settings import extreme_recipes
from autoprune.errors import UserError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.sensitivity.sweep import Grid, affordable
from autoprune.running.search.sensitivity import sweep_settings
from autoprune.running.setup import Setup

SWEEP_SHARE = 0.25
"""The most of what a run may cost that its sweep may take."""


@dataclass(frozen=True)
class ComputeBudget:
    """The compute that a run may take.

    Attributes:
        unit: one evaluation: the evaluation of the dense network on the samples that candidates are evaluated on.
        allowed: in all; None is without a limit.
        finals: reserved for evaluating the finalists.
        candidate: what one candidate costs at most.
    """

    unit: int
    allowed: int | None
    finals: int
    candidate: int

    @classmethod
    def open(cls, setup: Setup, evaluator: Evaluator, limits: Limits) -> ComputeBudget:
        """Returns the compute budget of an experiment; without a limit nothing is counted, as that takes a pass over
        the samples.

        Args:
            setup: with the experiment, whose `search.evaluations` is the limit.
            evaluator: knows the samples, and what evaluations cost.
            limits: what candidates may cost at most.

        Raises:
            UserError: it does not pay for the dense reference, one candidate and the finalists.
        """
        evaluations = setup.experiment.search.evaluations
        if evaluations is None:
            return cls(0, None, 0, 0)
        samples = evaluator.data.sample_count()
        unit = samples * evaluator.work.macs({})
        recipes = extreme_recipes(setup.experiment.recipe(), setup.space.settings)
        candidate = _most_work(setup, evaluator, limits, recipes, samples)
        finals = _finals(setup, evaluator, limits)
        least = unit + candidate + finals
        if evaluations * unit < least:
            raise UserError(
                f"--evaluations {evaluations} does not pay for the dense network, one candidate and the finalists; "
                f"give at least {-(-least // unit)}, or fewer finalists (search.rerank.top)"
            )
        return cls(unit, evaluations * unit, finals, candidate)

    def left(self, spent: int) -> int | None:
        """Returns what is left for candidates after the dense reference and a sweep that cost `spent`."""
        return None if self.allowed is None else self.allowed - self.unit - self.finals - spent

    def grid(self, setup: Setup, evaluator: Evaluator) -> Grid:
        """Returns the kept widths that the sweep evaluates.

        As many a group as the experiment says, fewer where they cost too much, none if even one would.
        """
        levels = setup.experiment.sensitivity.levels
        if self.allowed is None:
            return sweep_grid(setup.space, levels)
        most = min(SWEEP_SHARE * self.allowed, self.allowed - self.unit - self.finals - self.candidate)
        grids = [sweep_grid(setup.space, each) for each in range(levels, 0, -1)]
        return affordable(evaluator, grids, sweep_settings(setup.experiment), most)


def _most_work(setup: Setup, evaluator: Evaluator, limits: Limits, recipes: Sequence[Recipe], samples: int) -> int:
    """Returns about what an allocation within the limits costs at most, layers being refitted at half of the network.

    Args:
        recipes: of which the dearest counts; several where settings of the recipe are searched.
    """
    macs = setup.prunable.costs.max_macs(limits)
    dense, count = evaluator.work.macs({}), evaluator.work.count_refitted(setup.space.narrowest(), recipes[0])
    refit = dense + (count * macs + 1) // 2
    return max(evaluator.data.cap_samples(each).work(macs, dense, refit) for each in recipes) + samples * macs


def _finals(setup: Setup, evaluator: Evaluator, limits: Limits) -> int:
    """Returns what evaluating the finalists costs at most: nothing where all samples are used already."""
    experiment, samples = setup.experiment, evaluator.data
    recipe, count = experiment.final_recipe(), experiment.search.rerank.top
    if recipe != experiment.recipe():
        recipes = extreme_recipes(recipe, experiment.final_settings(setup.space.settings))
        return count * _most_work(setup, evaluator, limits, recipes, samples.validation_samples())
    if samples.uses_all_samples():
        return 0
    return count * _most_work(setup, evaluator, limits, [Recipe(0)], samples.validation_samples())
