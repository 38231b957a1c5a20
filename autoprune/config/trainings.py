"""The sections that say how candidates train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from autoprune.config.section import Positive, Section
from autoprune.core.recipe import AdmmTraining, Finetune
from autoprune.core.rounds import Rounds

Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class TrainingSection(Section):
    """A short training; see `autoprune.core.recipe.Training`."""

    steps: Positive
    rate: Above0 = 0.02
    schedule: Literal["cosine", "constant"] = "cosine"
    batch: Positive = 128
    momentum: Momentum = 0.9
    weight_decay: AtLeast0 = 5e-4
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    distill: AtLeast0 = 0.0
    temperature: Above0 = 4.0


class FinetuneSection(TrainingSection):
    """A training after pruning."""

    def finetune(self) -> Finetune:
        return Finetune(**self.model_dump())


class RoundFinetuneSection(FinetuneSection):
    """The short training that ends each step of a round."""

    steps: Positive = 50
    rate: Above0 = 0.01


class AdmmSection(TrainingSection):
    """A training towards being pruned; see `autoprune.core.recipe.AdmmTraining`."""

    steps: Positive = 100
    rate: Above0 = AdmmTraining.rate
    momentum: Momentum = AdmmTraining.momentum
    rho: Above0 = AdmmTraining.rho
    frequency: Positive = AdmmTraining.frequency

    def admm(self) -> AdmmTraining:
        return AdmmTraining(**self.model_dump())


class RoundsSection(Section):
    """How the searchers that work in rounds go on; see `autoprune.core.rounds.Rounds`."""

    count: Positive | None = None
    by: Literal["ratio", "value"] = "ratio"
    probes: Positive = 20
    finetune: RoundFinetuneSection | None = RoundFinetuneSection()
    admm: AdmmSection = AdmmSection()

    def rounds(self) -> Rounds:
        finetune = None if self.finetune is None else self.finetune.finetune()
        return Rounds(self.count, self.by, self.probes, finetune, self.admm.admm())
