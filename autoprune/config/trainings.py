"""The parts of an experiment that say how candidates train, where a file says it otherwise than Python does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from autoprune.config.documents import parse_document
from autoprune.config.messages import faults_of
from autoprune.core.fields import FieldError, Positive, Whole
from autoprune.core.recipe import Finetune, Rounds
from autoprune.errors import ConfigError

# What `reconstruct: true` stands for.
RECONSTRUCTION_SAMPLES = 512


def _count_of_samples(value: Any) -> Any:
    return {True: RECONSTRUCTION_SAMPLES, False: 0}[value] if isinstance(value, bool) else value


Samples = Annotated[int, BeforeValidator(_count_of_samples), Field(ge=0)]
"""A number of training samples, 0 or false for none, true for 512."""


@dataclass(frozen=True)
class RerankSection(Finetune):
    """The best few of a search, evaluated once more on all validation samples, and before that refitted or trained.

    What is not said of either is done to them as to every candidate.
    """

    top: Positive = 5
    reconstruct: Samples = 0

    needs_length: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        said = [each.name for each in fields(Finetune) if getattr(self, each.name) != each.default]
        if said and not self.trains:
            raise FieldError([((), f"{', '.join(said)} given, but nothing trains: give steps or epochs too")])

    @property
    def trains(self) -> bool:
        """Whether anything is said of how they are trained."""
        return self.steps is not None or self.epochs is not None

    def finetune(self) -> Finetune | None:
        """Returns how they are trained; None if nothing is said of it."""
        if not self.trains:
            return None
        return Finetune(**{each.name: getattr(self, each.name) for each in fields(Finetune)})


def _with_default_trainings(given: Any) -> Any:
    """Fills in what a round's trainings have for defaults where a part of them is given."""
    if not isinstance(given, Mapping):
        return given
    defaults = Rounds()
    filled = dict(given)
    for name, training in (("finetune", defaults.finetune), ("admm", defaults.admm)):
        if isinstance(given.get(name), Mapping) and training is not None:
            own = given[name]
            length = {} if own.get("epochs") is not None else {"steps": training.steps}
            filled[name] = {**length, "rate": training.rate, **own}
    return filled


RoundsSection = Annotated[Rounds, BeforeValidator(_with_default_trainings)]
"""Rounds of which a file need not say everything."""


@dataclass(frozen=True)
class _SeededFinetune(Finetune):
    seed: Whole = 0


def read_finetune(text: str) -> tuple[Finetune, int]:
    """Reads `epochs=1,rate=0.02,seed=3`; without a length it is one pass over the training samples.

    Raises:
        ConfigError: something is wrong; every fault is listed.
    """
    given: dict[str, Any] = {}
    faults: list[str] = []
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        document = parse_document(value, lambda _, key=key: f"--finetune {key}")  # type: ignore[misc]
        faults += document.faults
        given[key] = tuple(map(_number, value.split("+"))) if key == "milestones" else document.value
    if not {"steps", "epochs"} & given.keys():
        given["epochs"] = 1.0
    try:
        read = TypeAdapter(_SeededFinetune).validate_python(given)
    except ValidationError as invalid:
        for keys, said, _ in faults_of(invalid, _SeededFinetune):
            faults.append(f"--finetune {'.'.join(map(str, keys)) or text}: {said}")
    if faults:
        raise ConfigError(faults)
    if "temperature" in given and not read.distill:
        raise ConfigError(["--finetune temperature: belongs to distill, which is not given"])
    return Finetune(**{each.name: getattr(read, each.name) for each in fields(Finetune)}), read.seed


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
