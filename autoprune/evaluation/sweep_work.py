"""What a sweep costs, in images times multiply-adds of the convolutions and linear layers they go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from autoprune.core.trial import Recipe
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.subject import Subject
from autoprune.pruning.reconstruction import refitted_layers


@dataclass(frozen=True)
class SweepWork:
    """Costs of the levels of one sweep.

    Attributes:
        prepared: training images that the recipe takes.
        judged: validation images.
    """

    subject: Subject
    recipe: Recipe
    prepared: int
    judged: int

    @classmethod
    def of(cls, evaluator: Evaluator, recipe: Recipe, images: int) -> SweepWork:
        """The costs of levels judged on `images` validation images, fewer where there are no more."""
        taken = recipe.reconstruct or recipe.recalibrate
        prepared = _count(evaluator.recipe_batches(recipe), taken) if taken else 0
        judged = _count(evaluator.batches("validation", images, evaluator.judging.batch), images)
        return cls(evaluator.subject, recipe, prepared, judged)

    @property
    def streamed(self) -> int:
        """Images that go through a network from its inputs to its outputs once; refitting is another matter."""
        return self.judged + (0 if self.recipe.reconstruct else self.prepared)

    def plain(self, allocation: Mapping[str, int]) -> int:
        """Judging an allocation after the recipe, all by itself."""
        return self.streamed * self._macs(allocation) + self._refit(allocation)

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

    def _macs(self, allocation: Mapping[str, int]) -> int:
        """Of one image; where weights are only set to zero, those of the dense network."""
        costs = self.subject.costs
        return (costs.dense() if costs.effective else costs.costs(allocation))["flops"] // 2

    def _refit(self, allocation: Mapping[str, int]) -> int:
        """The dense network once, and the thinned one up to each layer that is refitted."""
        subject = self.subject
        if not self.recipe.reconstruct:
            return 0
        refitted = refitted_layers(subject.graph, subject.structures.kept(subject.importance, allocation))
        shares = subject.costs.by_layer("flops", allocation)
        names = [layer.name for layer in subject.graph.layers]
        up_to = dict(zip(names, accumulate(shares.get(name, 0) // 2 for name in names), strict=True))
        macs = sum(up_to[layer.name] for layer in refitted)
        return self.prepared * (self._macs({}) + macs) if refitted else 0


def _count(batches: object, most: int) -> int:
    """How many images there are; where they are not kept in memory, as many as were asked for."""
    if isinstance(batches, Sequence):
        return sum(len(inputs) for inputs, _ in batches)
    return most
