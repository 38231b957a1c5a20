"""How a search in rounds goes on, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autoprune.core.recipe import AdmmTraining, Finetune


@dataclass(frozen=True)
class Rounds:
    """The settings of the searchers that work in rounds, each from the weights that the one before left.

    Attributes:
        count: rounds from the dense network to the budget; None leaves it to the searcher.
        by: how `netadapt` picks a round's winner: by the objective's rise per cost saved, or by the objective alone.
        probes: candidates that `autocompress` anneals over in a round.
        finetune: the short training that ends each step; None leaves every candidate with the experiment's own recipe.
        admm: the training by which `autocompress` draws the weights to the allocation that a round found.
    """

    count: int | None = None
    by: Literal["ratio", "value"] = "ratio"
    probes: int = 20
    finetune: Finetune | None = field(default_factory=lambda: Finetune(steps=50, rate=0.01))
    admm: AdmmTraining = field(default_factory=lambda: AdmmTraining(steps=100))
