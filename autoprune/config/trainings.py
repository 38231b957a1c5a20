"""The sections that say how candidates train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from autoprune.core.recipe import AdmmTraining, Finetune, Rounds

Positive = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """What every section of a configuration file is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


Count = Callable[[float, int], int]
"""How many steps a number of epochs takes, at a number of samples a step."""


class TrainingSection(Section):
    """A short training; see `autoprune.core.recipe.Training`. It takes so many steps, or passes over the samples."""

    steps: Positive | None = None
    epochs: Above0 | None = None
    rate: Above0 = 0.02
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: Positive = 128
    momentum: Momentum = 0.9
    weight_decay: AtLeast0 = 5e-4
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    distill: AtLeast0 = 0.0
    temperature: Above0 = 4.0

    @model_validator(mode="before")
    @classmethod
    def _without_default_steps(cls, given: Any) -> Any:
        """Epochs alone take the place of the steps that are the default."""
        if isinstance(given, Mapping) and given.get("epochs") is not None:
            return {"steps": None, **given}
        return given

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"should have steps or epochs but has both ({self.steps} and {self.epochs:g})")
        if self.steps is None and self.epochs is None:
            self._check_without_length()
        return self

    def _check_without_length(self) -> None:
        raise ValueError("needs steps or epochs but has neither")

    def in_steps(self, count: Count) -> Self:
        """The same with steps in place of epochs."""
        if self.epochs is None:
            return self
        return self.model_copy(update={"steps": count(self.epochs, self.batch_size), "epochs": None})

    def _values(self, *others: str) -> dict[str, Any]:
        """The fields of a training; `others` are none of them."""
        assert self.epochs is None, "how many steps they take is known once the task is"
        return self.model_dump(exclude={"epochs", *others})


class FinetuneSection(TrainingSection):
    """A training after pruning."""

    def finetune(self) -> Finetune:
        return Finetune(**self._values())


class RoundFinetuneSection(FinetuneSection):
    """The short training that ends each step of a round."""

    steps: Positive | None = 50
    rate: Above0 = 0.01


class AdmmSection(TrainingSection):
    """A training towards being pruned; see `autoprune.core.recipe.AdmmTraining`."""

    steps: Positive | None = 100
    rate: Above0 = AdmmTraining.rate
    momentum: Momentum = AdmmTraining.momentum
    rho: Above0 = AdmmTraining.rho
    frequency: Positive = AdmmTraining.frequency

    def admm(self) -> AdmmTraining:
        return AdmmTraining(**self._values())


# What `reconstruct: true` stands for.
RECONSTRUCTION_IMAGES = 512


def _count_of_samples(value: Any) -> Any:
    return {True: RECONSTRUCTION_IMAGES, False: 0}[value] if isinstance(value, bool) else value


Samples = Annotated[int, BeforeValidator(_count_of_samples), Field(ge=0)]
"""A number of training samples, 0 or false for none, true for 512."""


class RerankSection(TrainingSection):
    """The best few of a search, judged once more on all validation samples, and before that refitted or trained.

    What is not said of either is done to them as to every candidate.
    """

    top: Positive = 5
    reconstruct: Samples = 0

    def _check_without_length(self) -> None:
        """Without a length nothing trains, and whoever says how to train has forgotten it."""
        defaults = RerankSection.model_fields
        said = [name for name in TrainingSection.model_fields if getattr(self, name) != defaults[name].default]
        if said:
            raise ValueError(f"{', '.join(said)} given, but nothing trains: give steps or epochs too")

    def finetune(self) -> Finetune | None:
        """How they are trained; None if nothing is said of it."""
        if self.steps is None and self.epochs is None:
            return None
        return Finetune(**self._values("top", "reconstruct"))


class RoundsSection(Section):
    """How the searchers that work in rounds go on; see `autoprune.core.recipe.Rounds`."""

    count: Positive | None = None
    by: Literal["ratio", "value"] = "ratio"
    probes: Positive = 20
    finetune: RoundFinetuneSection | None = RoundFinetuneSection()
    admm: AdmmSection = AdmmSection()

    def in_steps(self, count: Count) -> Self:
        """The same with steps in place of epochs."""
        finetune = self.finetune and self.finetune.in_steps(count)
        return self.model_copy(update={"finetune": finetune, "admm": self.admm.in_steps(count)})

    def rounds(self) -> Rounds:
        finetune = None if self.finetune is None else self.finetune.finetune()
        return Rounds(self.count, self.by, self.probes, finetune, self.admm.admm())
