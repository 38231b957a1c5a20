"""What a run may cost in all, and what is left of it for candidates; in multiply-adds (see `autoprune.core.work`).

Counted are the dense reference, the sweep, the candidates and the finalists. What only the final table needs (the
uniform allocation where no trial was it, the test images) is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits
from autoprune.core.sensitivity import sweep_grid
from autoprune.core.trial import Recipe
from autoprune.core.work import greatest_macs, recipe_work
from autoprune.errors import UserError
from autoprune.evaluation.evaluator import Evaluator
from autoprune.running.setup import Setup

SWEEP_SHARE = 0.25
"""The most of what a run may cost that its sweep may take."""

Grid = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Account:
    """What a run may cost.

    Attributes:
        unit: one evaluation: the judgement of the dense network on the images that judge candidates.
        allowed: in all; None is without a limit.
        finals: reserved for judging the finalists.
        candidate: what one candidate costs at most.
    """

    unit: int
    allowed: int | None
    finals: int
    candidate: int

    @classmethod
    def open(cls, setup: Setup, evaluator: Evaluator, limits: Limits) -> Account:
        """The account of an experiment; without a limit nothing is counted, as that takes a pass over the images.

        Raises:
            UserError: it does not pay for a single candidate.
        """
        evaluations = setup.experiment.search.evaluations
        if evaluations is None:
            return cls(0, None, 0, 0)
        images, dense = evaluator.images.judging(), evaluator.macs({})
        macs = greatest_macs(setup.subject.costs, limits)
        refitted = evaluator.refitted(setup.space.narrowest())
        candidate = recipe_work(evaluator.images.used(setup.experiment.recipe()), macs, dense, refitted) + images * macs
        unit = images * dense
        account = cls(unit, evaluations * unit, _finals(setup, evaluator, macs, refitted), candidate)
        account.check()
        return account

    def check(self) -> None:
        """Nothing, if the dense reference, one candidate and the finalists can be paid.

        Raises:
            UserError: they cannot.
        """
        least = self.unit + self.candidate + self.finals
        if self.allowed is not None and self.allowed < least:
            raise UserError(
                f"--evaluations {self.allowed // self.unit} does not pay for the dense network, one candidate and the "
                f"finalists; give at least {-(-least // self.unit)}, or fewer finalists"
            )

    def left(self, spent: int) -> int | None:
        """What is left for candidates after the dense reference and a sweep that cost `spent`."""
        return None if self.allowed is None else self.allowed - self.unit - self.finals - spent

    def grid(self, setup: Setup, evaluator: Evaluator) -> Grid:
        """The kept widths that the sweep judges.

        As many a group as the experiment says, fewer where they cost too much, none if even one would.
        """
        settings, recipe = setup.experiment.sensitivity, setup.experiment.recipe()
        if self.allowed is None:
            return sweep_grid(setup.space, settings.levels)
        most = min(SWEEP_SHARE * self.allowed, self.allowed - self.unit - self.finals - self.candidate)
        for levels in range(settings.levels, 0, -1):
            grid = sweep_grid(setup.space, levels)
            if grid_work(evaluator, grid, recipe, settings.images) <= most:
                return grid
        return {}


def grid_work(evaluator: Evaluator, grid: Grid, recipe: Recipe, images: int) -> int:
    """What judging every level of a grid costs, and the dense network after the same recipe."""
    levels = [Allocation({group: width}) for group, widths in grid.items() for width in widths]
    return sum(level_work(evaluator, level, recipe, images) for level in [Allocation({}), *levels])


def level_work(evaluator: Evaluator, allocation: Allocation, recipe: Recipe, images: int) -> int:
    """What judging one level costs."""
    return evaluator.recipe_work(allocation, recipe) + images * evaluator.macs(allocation)


def _finals(setup: Setup, evaluator: Evaluator, macs: int, refitted: int) -> int:
    """What judging the finalists costs at most: nothing, if they have been judged on all images already."""
    experiment, images = setup.experiment, evaluator.images
    recipe, count = experiment.final_recipe(), experiment.finalists.count
    if recipe != experiment.recipe():
        work = recipe_work(images.used(recipe), macs, evaluator.macs({}), refitted)
        return count * (work + images.available() * macs)
    return 0 if images.judges_all() else count * images.available() * macs
