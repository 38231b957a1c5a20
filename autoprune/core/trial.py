"""A candidate, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from autoprune.core.allocation import Allocation
from autoprune.core.fields import set_fields
from autoprune.core.metrics import KL, LOSS, Objective
from autoprune.core.recipe import Recipe

Role = Literal["final", "intermediate", "finalist"]
FailureKind = Literal["nan", "out_of_memory", "exception", "timeout", "worker_died"]
Setting = str | int | float | bool


@dataclass(frozen=True)
class Candidate:
    """An allocation to be evaluated.

    Two are the same if widths, settings, recipe and parent are (`key`).

    Attributes:
        number: counts from 0 within a run.
        settings: values of the further dimensions that are searched along.
        parent: number of the trial whose weights it starts from; None is the dense network.
        role: `final` candidates and `finalist`s can win, `intermediate` ones are rounds on the way; a finalist is the
            allocation of an earlier trial under the run's last recipe, and no searcher proposed it.
        limits: what it may cost: the run's limits, or its round's.
        stop_thresholds: for each rung, the objective's value above which the evaluation stops there; None never stops,
            empty turns early stopping off.
    """

    number: int
    allocation: Allocation
    recipe: Recipe = field(default_factory=Recipe)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    parent: int | None = None
    role: Role = "final"
    limits: Mapping[str, int] = field(default_factory=dict)
    stop_thresholds: tuple[float | None, ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for candidates that would be evaluated to the same result."""
        return (self.allocation, frozenset(self.settings.items()), self.recipe, self.parent)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, for JSON; the allocation is called `widths`."""
        return {
            "number": self.number,
            "widths": self.allocation.to_json(),
            "recipe": self.recipe.to_json(),
            "settings": dict(self.settings),
            "parent": self.parent,
            "role": self.role,
            "limits": dict(self.limits),
            **({"stop_thresholds": list(self.stop_thresholds)} if self.stop_thresholds else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Returns the candidate that `to_json` wrote."""
        return cls(
            number=data["number"],
            allocation=Allocation.from_json(data["widths"]),
            recipe=Recipe.from_json(data["recipe"]),
            settings=dict(data["settings"]),
            parent=data["parent"],
            role=data["role"],
            limits=dict(data["limits"]),
            stop_thresholds=tuple(data.get("stop_thresholds", ())),
        )


@dataclass(frozen=True)
class Score:
    """The result of an evaluation on validation samples.

    Attributes:
        loss: mean over the samples.
        metrics: what each metric of the task comes to, by name.
        samples: how many were evaluated.
        kl: mean divergence of the outputs from the dense network's, KL(dense ‖ pruned) in nats, where it was asked for.
        rungs: the scores on the first samples, fewest first, where they were asked for.
    """

    loss: float
    metrics: Mapping[str, float]
    samples: int
    kl: float | None = None
    rungs: tuple[Score, ...] = ()

    def get(self, name: str) -> float | None:
        """Returns the loss, the divergence or a metric; None where it was not measured."""
        return {LOSS.name: self.loss, KL.name: self.kl}.get(name, self.metrics.get(name))

    def numbers(self) -> dict[str, float]:
        """Returns everything that was measured, by name."""
        return {**self.metrics, LOSS.name: self.loss, **({} if self.kl is None else {KL.name: self.kl})}

    @classmethod
    def of_numbers(cls, numbers: Mapping[str, float], samples: int) -> Score:
        """Returns the score whose `numbers` these are."""
        metrics = {name: value for name, value in numbers.items() if name not in (LOSS.name, KL.name)}
        return cls(numbers[LOSS.name], metrics, samples, numbers.get(KL.name))

    def to_json(self) -> dict[str, Any]:
        """Returns what was measured."""
        return asdict(self, dict_factory=set_fields)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Score:
        """Returns the score that `to_json` wrote."""
        rungs = tuple(cls.from_json(rung) for rung in data.get("rungs", ()))
        return cls(**{**data, "rungs": rungs})


@dataclass(frozen=True)
class Stopped:
    """An evaluation that ended at a rung, where the candidate was above its threshold; it cannot win.

    Attributes:
        score: on the samples up to there.
    """

    score: Score

    def to_json(self) -> dict[str, Any]:
        """Returns what was measured."""
        return self.score.to_json()


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no score."""

    kind: FailureKind
    reason: str


Outcome = Score | Stopped | Failure


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Returns the outcome under the name of its kind: `{"score": {…}}`."""
    if isinstance(outcome, Failure):
        return {"failure": asdict(outcome)}
    return {"score" if isinstance(outcome, Score) else "stopped": outcome.to_json()}


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """Returns the outcome in a record that `outcome_to_json` is part of.

    Raises:
        KeyError: there is none.
    """
    if "score" in data:
        return Score.from_json(data["score"])
    if "stopped" in data:
        return Stopped(Score.from_json(data["stopped"]))
    if "failure" in data:
        return Failure(**data["failure"])
    raise KeyError("one of score, stopped, failure")


@dataclass(frozen=True)
class Trial:
    """A candidate with its outcome.

    Attributes:
        costs: FLOPs, parameters and bytes counted on the pruned network (empty if it failed before).
        seconds: how long the evaluation took.
        worker: who evaluated.
        work: what the evaluation cost, in multiply-adds (see `Recipe.work`).
    """

    candidate: Candidate
    outcome: Outcome
    costs: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    worker: str = "inline"
    work: int = 0

    @property
    def number(self) -> int:
        return self.candidate.number

    @property
    def score(self) -> Score | None:
        """The score on all samples, or None for a failure and for an evaluation that ended early."""
        return self.outcome if isinstance(self.outcome, Score) else None

    @property
    def failed(self) -> bool:
        """Whether something went wrong; an evaluation that ended early has not failed."""
        return isinstance(self.outcome, Failure)

    def to_json(self) -> dict[str, Any]:
        """Returns the outcome with the candidate's number; the candidate itself stands in its `asked` record."""
        return {
            "number": self.number,
            **outcome_to_json(self.outcome),
            "costs": dict(self.costs),
            "seconds": round(self.seconds, 3),
            "worker": self.worker,
            "work": self.work,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], candidate: Candidate) -> Trial:
        """Returns the trial of a candidate whose outcome `to_json` wrote."""
        outcome = outcome_from_json(data)
        return cls(candidate, outcome, data["costs"], data["seconds"], data["worker"], data["work"])


def reasons(trials: Iterable[Trial]) -> str:
    """Returns up to three of the different reasons for which trials failed."""
    found = {f"{t.outcome.kind}: {t.outcome.reason}" for t in trials if isinstance(t.outcome, Failure)}
    return "; ".join(sorted(found)[:3])


def value(score: Score, objective: Objective) -> float:
    """Returns what a search minimises of a score; see `MetricInfo.cost`.

    Raises:
        ValueError: the objective was not measured.
    """
    found = score.get(objective.name)
    if found is None:
        raise ValueError(f"the score has no {objective.name}: it has {', '.join(score.numbers())}")
    return objective.cost(found)


def ranked(trials: Sequence[Trial], objective: Objective, role: Role = "final") -> list[Trial]:
    """Returns the trials of one role that have a score, best first; of equal ones the earlier.

    Args:
        trials: in any order.
        objective: by which they are ranked.
        role: of the candidates.
    """
    scored = [(value(t.score, objective), t.number, t) for t in trials if t.score and t.candidate.role == role]
    return [trial for _, _, trial in sorted(scored, key=lambda item: item[:2])]


def winners(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """Returns the trials that can win, best first: the finalists, if any, as they had the run's last recipe."""
    return ranked(trials, objective, "finalist") or ranked(trials, objective)
