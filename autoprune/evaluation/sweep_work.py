"""What a sweep costs, in multiply-adds; see `autoprune.core.work`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoprune.core.recipe import Recipe
from autoprune.evaluation.evaluator import Evaluator


@dataclass(frozen=True)
class SweepWork:
    """Costs of the levels of one sweep.

    Attributes:
        recipe: with as many training images as there are, where it asks for more.
        images: validation images that are judged.
    """

    evaluator: Evaluator
    recipe: Recipe
    images: int

    @classmethod
    def of(cls, evaluator: Evaluator, recipe: Recipe, images: int) -> SweepWork:
        """The costs of levels judged on `images` validation images, fewer where there are no more."""
        return cls(evaluator, evaluator.images.used(recipe), evaluator.images.count("validation", images))

    @property
    def streamed(self) -> int:
        """Images that go through a network from its inputs to its outputs once; refitting is another matter."""
        return self.images + (0 if self.recipe.reconstruct else self.recipe.recalibrate)

    def plain(self, allocation: Mapping[str, int]) -> int:
        """Judging an allocation after the recipe, all by itself."""
        judged = self.images * self.evaluator.macs(allocation)
        return judged + self.evaluator.recipe_work(allocation, self.recipe)

    def behind(self, allocation: Mapping[str, int], macs_before: int) -> int:
        """The same where what comes before a place, `macs_before` multiply-adds an image, is known."""
        return self.plain(allocation) - self.prefix(macs_before)

    def prefix(self, macs: int) -> int:
        """Bringing all images so many multiply-adds further."""
        return self.streamed * macs

    def naive(self, grid: Mapping[str, Sequence[int]]) -> int:
        """Judging the dense network and every level of a grid, each by itself."""
        levels = [{group: width} for group, widths in grid.items() for width in widths]
        return sum(self.plain(level) for level in ({}, *levels))
