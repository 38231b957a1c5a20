"""What a schedule file says: how to train, what is pruned by which pruner, which penalties act, and when."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from autoprune import registry
from autoprune.config.section import Positive, Section
from autoprune.config.sections import PatternName, PrunerName, Texts, Typed, existing_file

Unit = Literal["step", "epoch"]
Whole = Annotated[int, Field(ge=0)]
Times = Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)]
Above = Annotated[float, Field(gt=0)]
Sparsity = Annotated[float, Field(ge=0, le=1)]


def _named(kind: str) -> Any:
    return AfterValidator(lambda name: registry.check(kind, name))


class PlanSection(Section):
    """See `autoprune.tasks.plan.TrainingPlan`; `steps` in place of `epochs` counts steps."""

    epochs: Above | None = None
    steps: Positive | None = None
    rate: Above = 0.02
    batch: Positive = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    milestones: Annotated[tuple[float, ...], Field(strict=False)] = ()
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    channels_last: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> PlanSection:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("needs epochs or steps: one of both")
        return self


class DistillSection(Section):
    """Learning from the dense network as it was loaded."""

    temperature: Above = 4.0
    weight: Above = 1.0


class PrunerSection(Section):
    """A pruner at work on some layers; what is None is the named pruner's.

    `sparsity` (or `threshold`, for a pruner that goes by one) is one number, or numbers by shell pattern of layers;
    `widths` is a file with kept widths, such as a run's best.yaml.
    """

    pruner: PrunerName
    layers: Texts = ("*",)
    sparsity: Sparsity | dict[str, Sparsity] | None = None
    threshold: Above | dict[str, Above] | None = None
    widths: Annotated[Path, Typed, AfterValidator(existing_file)] | None = None
    initial: Annotated[float, Field(ge=0)] = 0.0
    criterion: Annotated[str, _named("criterion")] | None = None
    pattern: PatternName | None = None
    schedule: Annotated[str, _named("schedule")] | None = None
    allocator: Annotated[str, _named("allocator")] | None = None
    combine: Literal["mean", "sum", "max"] | None = None
    normalise: bool | None = None

    @model_validator(mode="after")
    def _one_aim(self) -> PrunerSection:
        if sum(aim is not None for aim in (self.sparsity, self.threshold, self.widths)) != 1:
            raise ValueError("needs sparsity, threshold or widths: one of them")
        return self


class PenaltySection(Section):
    """A penalty on some layers. Settings that a penalty does not have are refused when it is made."""

    penalty: Annotated[str, _named("penalty")]
    layers: Texts = ("*",)
    pattern: PatternName | None = None
    strength: Above | None = None
    threshold: Annotated[float, Field(ge=0)] | None = None
    threshold_by: Literal["mean", "max"] | None = None
    threshold_every: Positive | None = None
    scale_by_size: bool | None = None
    proximal: bool | None = None
    sparsity: Sparsity | dict[str, Sparsity] | None = None
    rho: Above | None = None
    frequency: Positive | None = None


class PolicySection(Section):
    """What happens when: a pruner's updates, the time in which a penalty acts, thinning, the removal of dead layers.

    Times are epochs or steps that have passed: 0 is before the first. `epochs` or `steps` list single times; `start`,
    `end` and `frequency`, in `unit`s, a span.
    """

    pruner: str | None = None
    penalty: str | None = None
    remove_layers: str | None = None
    thin: Literal[True] | None = None
    epochs: Times | None = None
    steps: Times | None = None
    start: Whole | None = None
    end: Whole | None = None
    frequency: Positive | None = None
    unit: Unit = "epoch"

    @model_validator(mode="after")
    def _one_subject_and_one_time(self) -> PolicySection:
        if sum(subject is not None for subject in (self.pruner, self.penalty, self.remove_layers, self.thin)) != 1:
            raise ValueError("needs pruner, penalty, remove_layers or thin: one of them")
        listed = [times for times in (self.epochs, self.steps) if times is not None]
        span = any(value is not None for value in (self.start, self.end, self.frequency))
        if len(listed) + span > 1 or (not listed and not span and self.penalty is None):
            raise ValueError("needs epochs, steps, or start and end: one of them")
        if span and self.end is not None and self.end < (self.start or 0):
            raise ValueError(f"ends at {self.end}, before it starts at {self.start}")
        if (self.thin or self.remove_layers) and (span or len(listed[0]) != 1):
            raise ValueError("happens at one time: epochs or steps with a single number")
        if self.pruner is not None and listed and not _evenly_spaced(listed[0]):
            raise ValueError("updates should be equally far apart; give start, end and frequency, or two pruners")
        return self

    def timing(self) -> tuple[int, int | None, int, Unit]:
        """Start, end (None: the training's), steps or epochs between updates, and which of both."""
        listed, unit = (self.steps, "step") if self.steps is not None else (self.epochs, "epoch")
        if listed is None:
            return self.start or 0, self.end, self.frequency or 1, self.unit
        apart = listed[1] - listed[0] if len(listed) > 1 else 1
        return listed[0], listed[-1], apart, unit  # type: ignore[return-value]  # one of both words


class RoundsSection(Section):
    """A lottery ticket: the whole training once dense and then `count` times, from the same early weights."""

    count: Positive
    rewind: Literal["initial"] | Positive = "initial"


class StatisticsSection(Section):
    """Training images for criteria that read data, gone through at every update."""

    images: Positive = 1024
    batch: Positive = 64


class ScheduleFile(Section):
    """A whole schedule, checked."""

    train: PlanSection
    distill: DistillSection | None = None
    pruners: dict[str, PrunerSection] = Field(default_factory=dict)
    penalties: dict[str, PenaltySection] = Field(default_factory=dict)
    policies: Annotated[tuple[PolicySection, ...], Field(strict=False)] = ()
    rounds: RoundsSection | None = None
    scoring: StatisticsSection = StatisticsSection()


def _evenly_spaced(times: tuple[int, ...]) -> bool:
    steps = {after - before for before, after in pairwise(times)}
    return len(steps) <= 1 and all(step > 0 for step in steps)
