"""What an evaluation costs, whoever does it: multiply-adds of forward passes.

A forward pass of one image counts the multiply-adds of the network it goes through, a training step three times as
much (the backward pass counts twice, once for the activations and once for the weights). One *evaluation* is the
judgement of the dense network on the images that judge candidates; `--evaluations` is in units of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.core.budget import Limits
from autoprune.core.costs import CostTable
from autoprune.core.recipe import Recipe, Training

TRAINING = 3
"""Forward passes that one image in a training step is worth."""


def recipe_work(recipe: Recipe, macs: int, dense_macs: int, refit_macs: int = 0) -> int:
    """What a candidate's recipe costs.

    ADMM trains the network before it is thinned: in its dense shape also where it starts from a parent, whose lost
    channels are zeros then.

    Args:
        macs: multiply-adds of the candidate's network, for one image.
        dense_macs: those of the dense network.
        refit_macs: those of reconstruction, for one image: the dense network once, and the candidate's up to each layer
            that is refitted.
    """
    work = recipe.reconstruct * refit_macs if recipe.reconstruct else recipe.recalibrate * macs
    return work + training_work(recipe.admm, dense_macs, dense_macs) + training_work(recipe.finetune, macs, dense_macs)


def training_work(training: Training | None, macs: int, dense_macs: int) -> int:
    """What a training costs; one that is taught has the dense network look at every image once.

    Args:
        macs: multiply-adds of the network that trains, for one image.
        dense_macs: those of the dense network.
    """
    if training is None:
        return 0
    return training.steps * training.batch * (TRAINING * macs + (dense_macs if training.distill else 0))


def macs_of(costs: CostTable, allocation: Mapping[str, int]) -> int:
    """Multiply-adds of one image's forward pass; where weights are only set to zero, those of the dense network."""
    return (costs.dense() if costs.effective else costs.costs(allocation))["flops"] // 2


def greatest_macs(costs: CostTable, limits: Limits) -> int:
    """The most multiply-adds of one image that an allocation within the limits can take."""
    dense = costs.dense()["flops"] // 2
    return dense if costs.effective else min(dense, limits.get("flops", 2 * dense) // 2)
