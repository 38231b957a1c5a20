"""The compute costs of evaluating, in multiply-adds: candidates with their recipes, and the levels of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from autoprune.core.recipe import Recipe
from autoprune.evaluation.data import EvaluationData
from autoprune.evaluation.prunable_model import PrunableModel
from autoprune.graph.layers import Layer
from autoprune.pruning.surgery.reconstruction import refitted_layers


class WorkModel:
    """The multiply-adds of evaluating allocations of one network, known without building them."""

    def __init__(self, prunable: PrunableModel, data: EvaluationData) -> None:
        self._prunable, self.data = prunable, data

    def macs(self, allocation: Mapping[str, int]) -> int:
        """Returns the multiply-adds of one sample's forward pass."""
        return self._prunable.costs.macs(allocation)

    def evaluation(self, allocation: Mapping[str, int], recipe: Recipe, samples: int) -> int:
        """Returns the work of applying a recipe to an allocation and evaluating it on so many samples."""
        return self.recipe(allocation, recipe) + samples * self.macs(allocation)

    def recipe(self, allocation: Mapping[str, int], recipe: Recipe) -> int:
        """Returns the work of a recipe for an allocation."""
        refit_macs = self.refit_macs(allocation, recipe) if recipe.reconstruct else 0
        return self.data.cap_samples(recipe).work(self.macs(allocation), self.macs({}), refit_macs)

    def refit_macs(self, allocation: Mapping[str, int], recipe: Recipe) -> int:
        """Returns the multiply-adds of a recipe's reconstruction for one sample.

        The dense network runs once, and the thinned one up to each layer that is refitted; 0 where none is.
        """
        refitted = self._refitted(allocation, recipe)
        shares = self._prunable.costs.by_layer("flops", allocation)
        names = [layer.name for layer in self._prunable.graph.layers]
        up_to = dict(zip(names, accumulate(shares.get(name, 0) // 2 for name in names), strict=True))
        return self.macs({}) + sum(up_to[layer.name] for layer in refitted) if refitted else 0

    def count_refitted(self, allocation: Mapping[str, int], recipe: Recipe) -> int:
        """Returns how many layers a recipe's reconstruction refits."""
        return len(self._refitted(allocation, recipe))

    def _refitted(self, allocation: Mapping[str, int], recipe: Recipe) -> list[Layer]:
        prunable = self._prunable
        kept = prunable.structures.kept_channels(prunable.importance, allocation)
        return refitted_layers(prunable.graph, kept, consumers_only=recipe.consumers_only)


@dataclass(frozen=True)
class SweepWork:
    """The work of the levels of one sweep.

    Attributes:
        recipe: with as many training samples as there are, where it asks for more.
        samples: validation samples that each level is evaluated on.
    """

    model: WorkModel
    recipe: Recipe
    samples: int

    @classmethod
    def of(cls, model: WorkModel, recipe: Recipe, samples: int) -> SweepWork:
        """Returns the work of levels evaluated on `samples` validation samples, fewer where there are no more."""
        return cls(model, model.data.cap_samples(recipe), model.data.count("validation", samples))

    def alone(self, allocation: Mapping[str, int]) -> int:
        """Returns the work of an allocation that shares nothing with others."""
        return self.model.evaluation(allocation, self.recipe, self.samples)

    def all_alone(self, grid: Mapping[str, Sequence[int]]) -> int:
        """Returns the work of the dense network and of every level of a grid if they share nothing."""
        levels = [{group: width} for group, widths in grid.items() for width in widths]
        return sum(self.alone(level) for level in ({}, *levels))

    def from_prefix(self, group: str, width: int, prefix_macs: Mapping[str, int], *, widest: bool) -> int:
        """Returns the work of a level where what comes before its group has been computed for all of its levels.

        The widest level of a group also pays for bringing all samples from the prefix of the group before to its own.

        Args:
            prefix_macs: group to the multiply-adds of one sample before its levels differ from the dense network, in
                the order in which the prefixes are reached.
            widest: whether it is the group's first level.
        """
        streamed = self.samples + (0 if self.recipe.reconstruct else self.recipe.recalibrate)
        own = self.alone({group: width}) - streamed * prefix_macs[group]
        if not widest:
            return own
        groups = list(prefix_macs)
        index = groups.index(group)
        return own + streamed * (prefix_macs[group] - (prefix_macs[groups[index - 1]] if index else 0))
