"""How a search goes that changes weights from round to round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autoprune.core.recipe import AdmmTraining, Finetune


@dataclass(frozen=True)
class Rounds:
    """What searchers that work in rounds are told besides the problem.

    Attributes:
        count: rounds; None is the searcher's own number.
        by: what chooses a round's winner in `netadapt`: the rise of the objective per saved share of the limited costs
            (`ratio`), or the objective alone (`value`).
        probes: allocations that `autocompress` tries in each round without training them.
        finetune: the short training of a round's candidates; None trains none.
        admm: the training towards a round's allocation in `autocompress`.
        price: multiply-adds that a candidate which is trained so takes at most.
    """

    count: int | None = None
    by: Literal["ratio", "value"] = "ratio"
    probes: int = 20
    finetune: Finetune | None = field(default_factory=lambda: Finetune(steps=50, rate=0.01))
    admm: AdmmTraining = field(default_factory=lambda: AdmmTraining(steps=100))
    price: int = 0
