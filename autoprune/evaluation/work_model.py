"""The compute costs of evaluating candidates with their recipes, in multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping
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
        """Returns the work of a candidate, in multiply-adds.

        Args:
            allocation: group to kept width; groups that are not named are whole.
            recipe: what is done to it before.
            samples: how many it is evaluated on.
        """
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
        gone = prunable.structures.removed_layers(allocation)
        return refitted_layers(prunable.graph, kept, consumers_only=recipe.consumers_only, removed=gone)
