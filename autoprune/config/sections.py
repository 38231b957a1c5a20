"""The sections of an experiment: every key with its type, range and default."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator
from pydantic_core.core_schema import ValidationInfo

from autoprune import registry
from autoprune.config.documents import existing, typed
from autoprune.config.settings import read_settings, write_settings
from autoprune.config.trainings import FinetuneSection, Positive, RerankSection, RoundsSection, Samples, Section
from autoprune.core.budget import Budget
from autoprune.core.trial import Objective


def named(kind: str) -> AfterValidator:
    """Returns a check that a text is a name of that kind; nothing is imported."""
    return AfterValidator(lambda name: registry.check(kind, name))


def _task_name(name: str) -> str:
    return name if ":" in name else registry.check("task", name)  # a task passed in from Python has any name


def existing_file(path: Path) -> Path:
    return existing(path, "file")


def _file_or_folder(path: Path) -> Path:
    return existing(path, "file or folder")


def _budget_text(value: Any) -> Any:
    if not isinstance(value, (str, Mapping, Budget)):
        raise ValueError(f"should be a text such as flops=0.5 or a mapping such as {{flops: 0.5}} but is {value!r}")
    return str(Budget.of(value))


Typed = BeforeValidator(typed)
Texts = Annotated[tuple[str, ...], Field(strict=False)]
Ends = Annotated[tuple[Literal["first", "last"], ...], Field(strict=False)]
Keep = Annotated[float, Field(gt=0, le=1)]
Dimensions = Annotated[dict[str, Any], BeforeValidator(read_settings), PlainSerializer(write_settings)]
PrunerName = Annotated[str, named("pruner")]
PatternName = Annotated[str, named("pattern")]
BudgetText = Annotated[str, BeforeValidator(_budget_text)]


class TaskSection(Section):
    """Network, weights and data; None leaves the choice to the task."""

    name: Annotated[str, AfterValidator(_task_name)] = "digits"
    data: Annotated[Path, Typed, AfterValidator(_file_or_folder)] | None = None
    model: Annotated[str, named("model")] | None = None
    checkpoint: Annotated[Path, Typed, AfterValidator(existing_file)] | None = None


class GroupSection(Section):
    """The rule of some groups; what is None is left to the whole space."""

    min_keep: Keep | None = None
    max_keep: Keep | None = None
    multiple_of: Positive | None = None
    pin: bool = False


class SpaceSection(Section):
    """See `autoprune.core.space.SpaceRules`."""

    source: str = "the space of the experiment"
    include: Texts = ("*",)
    exclude: Texts = ()
    types: Texts | None = None
    protect: Ends = ("first", "last")
    coupled: bool = True
    min_keep: Keep = 0.1
    max_keep: Keep = 1.0
    multiple_of: Positive = 1
    groups: dict[str, GroupSection] = Field(default_factory=dict)
    settings: Dimensions = Field(default_factory=dict)

    @field_validator("max_keep")
    @classmethod
    def _in_order(cls, most: float, info: ValidationInfo) -> float:
        least = info.data.get("min_keep", 0.0)
        if least > most:
            raise ValueError(f"max_keep {most} is below min_keep {least}")
        return most

    @field_validator("groups")
    @classmethod
    def _groups_in_order(cls, groups: dict[str, GroupSection], info: ValidationInfo) -> dict[str, GroupSection]:
        for pattern, rule in groups.items():
            least = info.data.get("min_keep", 0.0) if rule.min_keep is None else rule.min_keep
            most = info.data.get("max_keep", 1.0) if rule.max_keep is None else rule.max_keep
            if least > most:
                raise ValueError(f"for {pattern!r} max_keep {most} is below min_keep {least}")
        return groups


class ScoringSection(Section):
    """How structures are scored; None leaves it to the pruner. Images are read only by criteria that need data."""

    criterion: Annotated[str, named("criterion")] | None = None
    pattern: PatternName | None = None
    combine: Literal["mean", "sum", "max"] | None = None
    normalise: bool | None = None
    samples: Positive = 1024
    batch_size: Positive = 64


class SearchSection(Section):
    """Who proposes, how long, and how the best few are ranked at the end.

    `evaluations` caps the cost of everything, in judgements of the dense network. `rounds` is for `netadapt` and
    `autocompress` alone; null leaves them to their defaults.
    """

    searcher: Annotated[str, named("searcher")] = "auto"
    trials: Positive | None = None
    evaluations: Positive | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    rounds: RoundsSection | None = None
    rerank: RerankSection = RerankSection()


class RecalibrateSection(Section):
    """Batch norm re-estimation; 0 samples leave the statistics as they are."""

    samples: Annotated[int, Field(ge=0)] = 512
    augment: bool = True


Share = Annotated[float, Field(gt=0, lt=1)]


class EvaluationSection(Section):
    """How candidates are judged.

    After each share of the samples in `rungs` a candidate that is clearly behind may be dropped; none are judged whole.
    """

    objective: Objective = "loss"
    samples: Positive = 5000
    batch_size: Positive = 128
    rungs: Annotated[tuple[Share, ...], Field(strict=False)] = (0.1, 0.3)
    recalibrate: RecalibrateSection = RecalibrateSection()
    reconstruct: Samples = 0
    finetune: FinetuneSection | None = None

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if list(rungs) != sorted(set(rungs)):
            raise ValueError(f"should ascend but is {list(rungs)}")
        return rungs


class SensitivitySection(Section):
    """The sweep: a file of curves to use instead, or how to make them.

    A group's levels end with the first whose accuracy is below `stop` times the dense network's (null: none ends).
    With `reuse` what comes before a group is computed once for all of its levels.
    """

    file: Annotated[Path, Typed, AfterValidator(existing_file)] | None = None
    samples: Positive = 1000
    levels: Positive = 8
    stop: Keep | None = 0.5
    reuse: bool = True


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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
    workers: Annotated[int, Field(ge=0)] = 0
    cpus_per_trial: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    gpus_per_trial: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    retries: Annotated[int, Field(ge=0)] = 2
    trial_timeout: Seconds | None = None
    ray_address: Annotated[str, Field(min_length=1)] | None = None


class TrackSection(Section):
    """Where a run is mirrored; with `model` the best network is also logged as one of MLflow's models."""

    uri: Annotated[str, Field(min_length=1)] | None = Field(default=None, repr=False)  # may hold a password
    experiment: Annotated[str, Field(min_length=1)] = "autoprune"
    enabled: bool = True
    model: bool = True
