"""A candidate, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from autoprune.core.allocation import Allocation

Role = Literal["final", "intermediate"]
FailureKind = Literal["nan", "out_of_memory", "exception", "timeout", "worker_died"]
Setting = str | int | float | bool


@dataclass(frozen=True)
class Recipe:
    """What is done to a candidate besides pruning.

    Attributes:
        recalibrate: how many training images re-estimate the batch norm; 0 leaves the statistics as they are.
        augment: whether those images are augmented as in training.
        reconstruct: how many training images, not augmented, refit the layers whose inputs were thinned by least
            squares; this takes the place of re-estimation. 0 refits nothing.
    """

    recalibrate: int = 512
    augment: bool = True
    reconstruct: int = 0

    def to_json(self) -> dict[str, Any]:
        """Without what is not done and earlier releases did not know, so that their records compare equal."""
        return {name: setting for name, setting in asdict(self).items() if name != "reconstruct" or setting}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        return cls(**data)


@dataclass(frozen=True)
class Candidate:
    """What is to be judged. Two are the same if widths, settings, recipe and parent are (`key`).

    Attributes:
        number: counts from 0 within a run.
        settings: values of the further dimensions that are searched along.
        parent: number of the trial whose weights it starts from; None is the dense network.
        role: only `final` candidates can win; `intermediate` ones are rounds on the way.
        limits: what it may cost: the run's limits, or its round's.
    """

    number: int
    allocation: Allocation
    recipe: Recipe = Recipe()
    settings: Mapping[str, Setting] = field(default_factory=dict)
    parent: int | None = None
    role: Role = "final"
    limits: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for candidates that would be evaluated to the same result."""
        return (self.allocation, frozenset(self.settings.items()), self.recipe, self.parent)

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "widths": self.allocation.to_json(),
            "recipe": self.recipe.to_json(),
            "settings": dict(self.settings),
            "parent": self.parent,
            "role": self.role,
            "limits": dict(self.limits),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        return cls(
            number=data["number"],
            allocation=Allocation.from_json(data["widths"]),
            recipe=Recipe.from_json(data["recipe"]),
            settings=dict(data["settings"]),
            parent=data["parent"],
            role=data["role"],
            limits=dict(data["limits"]),
        )


@dataclass(frozen=True)
class Score:
    """A judgement on validation images.

    Attributes:
        loss: mean over the images.
        accuracy: mean of the task's metric over the images, higher is better.
        images: how many were judged.
    """

    loss: float
    accuracy: float
    images: int


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no score."""

    kind: FailureKind
    reason: str


@dataclass(frozen=True)
class Trial:
    """A candidate with its outcome.

    Attributes:
        costs: FLOPs, parameters and bytes counted on the pruned network (empty if it failed before).
        seconds: how long the evaluation took.
        worker: who evaluated.
    """

    candidate: Candidate
    outcome: Score | Failure
    costs: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    worker: str = "inline"

    @property
    def number(self) -> int:
        return self.candidate.number

    @property
    def score(self) -> Score | None:
        """The score, or None for a failure."""
        return self.outcome if isinstance(self.outcome, Score) else None

    def to_json(self) -> dict[str, Any]:
        """The outcome with the candidate's number; the candidate itself stands in its `asked` record."""
        name = "score" if isinstance(self.outcome, Score) else "failure"
        return {
            "number": self.number,
            name: asdict(self.outcome),
            "costs": dict(self.costs),
            "seconds": round(self.seconds, 3),
            "worker": self.worker,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], candidate: Candidate) -> Trial:
        outcome = Score(**data["score"]) if "score" in data else Failure(**data["failure"])
        return cls(candidate, outcome, data["costs"], data["seconds"], data["worker"])


Objective = Literal["loss", "accuracy"]


def value(score: Score, objective: Objective) -> float:
    """What a search minimises: the loss, or one minus the accuracy."""
    return score.loss if objective == "loss" else 1.0 - score.accuracy


def ranked(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The final trials that have a score, best first; of equal ones the earlier."""
    scored = [(value(t.score, objective), t.number, t) for t in trials if t.score and t.candidate.role == "final"]
    return [trial for _, _, trial in sorted(scored, key=lambda item: item[:2])]
