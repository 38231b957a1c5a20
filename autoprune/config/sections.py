"""The sections of an experiment: every key with its type, range and default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator

from autoprune import registry
from autoprune.config.documents import existing, parse_document, parse_path
from autoprune.config.messages import validated
from autoprune.config.settings import read_settings, write_settings
from autoprune.core.budget import Budget
from autoprune.core.fields import Above0, AtLeast0, Between, FieldError, Positive, UpToOne, Whole, only_fields
from autoprune.core.metrics import LOSS
from autoprune.core.recipe import Finetune, Rounds
from autoprune.core.settings import Combination
from autoprune.core.space import SpaceRules
from autoprune.errors import ConfigError


def named(kind: str) -> AfterValidator:
    """Returns a check that a text is a name of that kind; nothing is imported."""
    return AfterValidator(lambda name: registry.check(kind, name))


def _model_name(name: str) -> str:
    prefix, _, rest = registry.check("model", name).partition(":")
    return f"hf:{existing(parse_path(rest), 'file or folder')}" if prefix == "hf" else name


def _task_name(name: str) -> str:
    return name if ":" in name else registry.check("task", name)  # a task passed in from Python has any name


PathText = Annotated[Path, BeforeValidator(parse_path)]
ExistingFile = Annotated[PathText, AfterValidator(partial(existing, kind="file"))]
ExistingPath = Annotated[PathText, AfterValidator(partial(existing, kind="file or folder"))]
Dimensions = Annotated[dict[str, Any], BeforeValidator(read_settings), PlainSerializer(write_settings)]
CriterionName = Annotated[str, named("criterion")]
PrunerName = Annotated[str, named("pruner")]
PatternName = Annotated[str, named("pattern")]
BudgetText = Annotated[str, BeforeValidator(lambda value: str(Budget.of(value)))]


class Section(BaseModel):
    """A part of a file: a mapping of known keys to values of just their types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class TaskSection(Section):
    """Network, weights and data; None leaves the choice to the task.

    `options` are a built-in task's own, such as the `image_size` of image folders. `masks` says whether what is held at
    zero in a checkpoint of autoprune's stays there.
    """

    name: Annotated[str, AfterValidator(_task_name)] = "digits"
    data: ExistingPath | None = None
    model: Annotated[str, AfterValidator(_model_name)] | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    checkpoint: ExistingPath | None = None
    masks: Literal["hold", "drop"] = "hold"


def typed_task(task: Mapping[str, Any]) -> list[str]:
    """Returns the options of the command line that name a task again.

    Args:
        task: what a `TaskSection` holds.
    """
    options = [(f"--{key}", task.get(field)) for key, field in (("task", "name"), ("data", "data"), ("model", "model"))]
    given = task.get("options") or {}
    options += [("--set", f"task.options.{name}={json.dumps(value)}") for name, value in given.items()]
    return [part for name, value in options if value is not None for part in (name, str(value))]


@dataclass(frozen=True)
class SpaceSection(SpaceRules):
    """A search space in an experiment, with the names of settings checked."""

    source: str = "the space of the experiment"
    settings: Dimensions = field(default_factory=dict)


class ScoringSection(Section):
    """How structures are scored; None leaves it to the pruner. Samples are read only by criteria that need data."""

    criterion: CriterionName | None = None
    pattern: PatternName | None = None
    combine: Combination | None = None
    normalise: bool | None = None
    samples: Positive = 1024
    batch_size: Positive = 64


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
        return only_fields(Finetune, self) if self.trains else None


def _with_default_trainings(given: Any) -> Any:
    """Fills in what a round's trainings have for defaults where a part of them is given."""
    if not isinstance(given, Mapping):
        return given
    filled = dict(given)
    for name in ("finetune", "admm"):
        own, training = given.get(name), getattr(Rounds(), name)
        if isinstance(own, Mapping):
            length = {} if own.get("epochs") is not None else {"steps": training.steps}
            filled[name] = {**length, "rate": training.rate, **own}
    return filled


RoundsSection = Annotated[Rounds, BeforeValidator(_with_default_trainings)]
"""Rounds of which a file need not say everything."""


class SearchSection(Section):
    """Who proposes, how long, and how the best few are ranked at the end.

    `evaluations` caps the cost of everything, in evaluations of the dense network. `rounds` is for `netadapt` and
    `autocompress` alone; null leaves them to their defaults. `relative_to` says what the fractions of a budget are of,
    where the checkpoint was pruned before: that one, or the network that was pruned first.
    """

    searcher: Annotated[str, named("searcher")] = "auto"
    trials: Positive | None = None
    evaluations: Positive | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    relative_to: Literal["given", "first"] = "given"
    rounds: RoundsSection | None = None
    rerank: RerankSection = RerankSection()


class RecalibrateSection(Section):
    """Batch norm re-estimation; 0 samples leave the statistics as they are."""

    samples: Whole = 512
    augment: bool = True


class EvaluationSection(Section):
    """How candidates are evaluated.

    After each share of the samples in `rungs` a candidate that is clearly behind may be dropped; without
    rungs each is evaluated on all samples.
    """

    objective: str = LOSS.name
    samples: Positive = 5000
    batch_size: Positive = 128
    rungs: tuple[Between, ...] = (0.1, 0.3)
    recalibrate: RecalibrateSection = RecalibrateSection()
    reconstruct: Samples = 0
    finetune: Finetune | None = None

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ValueError(f"should ascend but is {list(rungs)}")
        return rungs


class SensitivitySection(Section):
    """The sweep: a file of curves to use instead, or how to make them.

    A group's levels end with the first whose first metric, where that should be high, is below `stop` times the dense
    network's (null: none ends).
    With `reuse` what comes before a group is computed once for all of its levels.
    """

    file: ExistingFile | None = None
    samples: Positive = 1000
    levels: Positive = 8
    stop: UpToOne | None = 0.5
    reuse: bool = True


class RunSection(Section):
    """Where trials are evaluated: in this process, or with `workers` by Ray Tune, each on its share of the hardware.

    Attributes:
        threads: of torch in this process; a worker has as many as it has CPUs.
        retries: how often the trial of a worker that died, hung or ran out of memory is tried again.
        trial_timeout: seconds after which a trial counts as hung; None waits for ever.
        ray_address: of a running cluster (`auto`, `host:port`); None is `RAY_ADDRESS`, else a Ray of its own.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = None
    workers: Whole = 0
    cpus_per_trial: Above0 = 1.0
    gpus_per_trial: AtLeast0 = 0.0
    retries: Whole = 2
    trial_timeout: Above0 | None = None
    ray_address: Annotated[str, Field(min_length=1)] | None = None


class TrackSection(Section):
    """Where a run is mirrored; with `model` the best network is also logged as one of MLflow's models."""

    uri: Annotated[str, Field(min_length=1)] | None = Field(default=None, repr=False)  # may hold a password
    experiment: Annotated[str, Field(min_length=1)] = "autoprune"
    enabled: bool = True
    model: bool = True


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
    read = validated(_SeededFinetune, given, lambda keys, _: f"--finetune {'.'.join(map(str, keys)) or text}", faults)
    if "temperature" in given and not read.distill:
        raise ConfigError(["--finetune temperature: belongs to distill, which is not given"])
    return only_fields(Finetune, read), read.seed


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
