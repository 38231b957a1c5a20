"""What a schedule file says: how to train, what is pruned by which pruner, which penalties act, and when."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoprune.config.documents import Keys, read_document
from autoprune.config.messages import shown, validated
from autoprune.config.sections import CriterionName, ExistingFile, PatternName, PrunerName, Section, named
from autoprune.core.fields import Above0, AtLeast0, Positive, Whole
from autoprune.core.recipe import Training
from autoprune.core.settings import Combination
from autoprune.errors import ConfigError, did_you_mean

Unit = Literal["step", "epoch"]
Times = Annotated[tuple[Whole, ...], Field(min_length=1)]
Sparsity = Annotated[float, Field(ge=0, le=1)]


class DistillSection(Section):
    """Learning from the dense network as it was loaded."""

    temperature: Above0 = 4.0
    weight: Above0 = 1.0


class PrunerSection(Section):
    """A pruner at work on some layers; what is None is the named pruner's.

    `sparsity` (or `threshold`, for a pruner that goes by one) is one number, or numbers by shell pattern of layers;
    `widths` is a file with kept widths, such as a run's best.yaml.
    """

    pruner: PrunerName
    layers: tuple[str, ...] = ("*",)
    sparsity: Sparsity | dict[str, Sparsity] | None = None
    threshold: Above0 | dict[str, Above0] | None = None
    widths: ExistingFile | None = None
    initial: AtLeast0 = 0.0
    criterion: CriterionName | None = None
    pattern: PatternName | None = None
    schedule: Annotated[str, named("schedule")] | None = None
    allocator: Annotated[str, named("allocator")] | None = None
    combine: Combination | None = None
    normalise: bool | None = None

    @model_validator(mode="after")
    def _one_target(self) -> PrunerSection:
        if sum(target is not None for target in (self.sparsity, self.threshold, self.widths)) != 1:
            raise ValueError("needs sparsity, threshold or widths: one of them")
        return self


class PenaltySection(Section):
    """A penalty on some layers. Settings that a penalty does not have are refused when it is made."""

    penalty: Annotated[str, named("penalty")]
    layers: tuple[str, ...] = ("*",)
    pattern: PatternName | None = None
    strength: Above0 | None = None
    threshold: AtLeast0 | None = None
    threshold_by: Literal["mean", "max"] | None = None
    threshold_every: Positive | None = None
    scale_by_size: bool | None = None
    proximal: bool | None = None
    sparsity: Sparsity | dict[str, Sparsity] | None = None
    rho: Above0 | None = None
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
    def _one_action_and_one_time(self) -> PolicySection:
        if sum(action is not None for action in (self.pruner, self.penalty, self.remove_layers, self.thin)) != 1:
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
        """Returns start, end (None: the training's), steps or epochs between updates, and which of both."""
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
    """Training samples for criteria that read data, gone through at every update."""

    samples: Positive = 1024
    batch_size: Positive = 64


class ScheduleFile(Section):
    """A whole schedule, checked.

    With `start_epoch` it goes on where another training ended: epochs and steps are counted from there. `stop_epoch`
    ends it early, its rates being those of the whole.
    """

    train: Training
    start_epoch: Whole = 0
    stop_epoch: Positive | None = None
    distill: DistillSection | None = None
    pruners: dict[str, PrunerSection] = Field(default_factory=dict)
    penalties: dict[str, PenaltySection] = Field(default_factory=dict)
    policies: tuple[PolicySection, ...] = ()
    rounds: RoundsSection | None = None
    scoring: StatisticsSection = StatisticsSection()


def _evenly_spaced(times: tuple[int, ...]) -> bool:
    steps = {after - before for before, after in pairwise(times)}
    return len(steps) <= 1 and all(step > 0 for step in steps)


def load_schedule(path: Path) -> ScheduleFile:
    """Returns the schedule in a YAML file.

    Raises:
        ConfigError: something is wrong; every fault is listed with its place.
    """
    document = read_document(path)
    if document.faults:
        raise ConfigError(document.faults)
    if not isinstance(document.value, dict):
        known = ", ".join(ScheduleFile.model_fields)
        raise ConfigError([f"{path}: should be a mapping (key: value) but is {shown(document.value)}; keys: {known}"])

    def label(keys: Keys, in_key: bool) -> str:
        return f"{document.position(keys, in_key)}: {'.'.join(map(str, keys))}"

    schedule = validated(ScheduleFile, document.value, label)
    faults = [f"{document.position(keys)}: {message}" for keys, message in _contradictions(schedule)]
    if faults:
        raise ConfigError(faults)
    return schedule


def _contradictions(schedule: ScheduleFile) -> Iterator[tuple[Keys, str]]:
    yield from _unknown_names(schedule)
    used = [policy.pruner for policy in schedule.policies]
    for name in schedule.pruners:
        policies = used.count(name)
        if schedule.rounds is None and policies != 1:
            yield ("pruners", name), f"pruner {name!r} should be in one policy, which says when, but is in {policies}"
    if schedule.rounds is not None:
        yield from _rounds_with_others(schedule)
    yield from _wrong_offsets(schedule)
    length = schedule.train.epochs, schedule.train.steps
    for index, policy in enumerate(schedule.policies):
        start, end, _, unit = policy.timing()
        limit = length[0] if unit == "epoch" else length[1]
        if limit is not None and max(start, end or 0) > limit:
            yield ("policies", index), f"reaches to {unit} {max(start, end or 0)}, but training ends after {limit:g}"


def _wrong_offsets(schedule: ScheduleFile) -> Iterator[tuple[Keys, str]]:
    """Yields what is wrong with where the training starts and stops."""
    start, stop, epochs = schedule.start_epoch, schedule.stop_epoch, schedule.train.epochs
    for name, epoch in (("start_epoch", start), ("stop_epoch", stop)):
        limit = "below" if name == "start_epoch" else "at most"
        if epoch and schedule.rounds is not None:
            yield (name,), "rounds of a lottery ticket begin at the start and go to the end; leave it out"
        elif epoch and epochs is not None and epoch >= epochs + (name == "stop_epoch"):
            yield (
                (name,),
                f"{name} should be {limit} the {epochs:g} epochs of the whole training (train.epochs) but is {epoch}",
            )
    if stop is not None and start >= stop:
        yield ("stop_epoch",), f"stop_epoch should come after start_epoch ({start}) but is {stop}"


def _unknown_names(schedule: ScheduleFile) -> Iterator[tuple[Keys, str]]:
    """Yields what policies name and the schedule has not."""
    for index, policy in enumerate(schedule.policies):
        for field, where in (("pruner", "pruners"), ("penalty", "penalties"), ("remove_layers", "penalties")):
            name, names = getattr(policy, field), getattr(schedule, where)
            if name is not None and name not in names:
                listed = ", ".join(names) or "none"
                message = f"{name!r} is not among the {where} ({listed}){did_you_mean(name, names)}"
                yield ("policies", index, field), message


def _rounds_with_others(schedule: ScheduleFile) -> Iterator[tuple[Keys, str]]:
    if len(schedule.pruners) != 1:
        yield ("rounds",), f"rounds are of one pruner, but there are {len(schedule.pruners)}"
    for index, policy in enumerate(schedule.policies):
        if policy.penalty is None:
            yield ("policies", index), "with rounds the pruner prunes between them, and nothing is thinned or removed"
