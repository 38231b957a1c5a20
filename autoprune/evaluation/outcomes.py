"""The outcome of an evaluation in which something may go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from autoprune.core.trial import Failure, Score, Stopped, Trial, outcome_to_json
from autoprune.errors import DataError, Diverged, describe, foreign_code

S = TypeVar("S", bound=Score | Stopped)


@dataclass(frozen=True)
class EvaluationResult:
    """The outcome of evaluating a network, with what it cost.

    Attributes:
        work: in multiply-adds.
    """

    outcome: Score | Failure
    work: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**outcome_to_json(self.outcome), "work": self.work}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EvaluationResult:
        scored = "score" in data
        outcome = Score.from_json(data["score"]) if scored else Failure(**data["failure"])
        return cls(outcome, data["work"])


R = TypeVar("R", Trial, EvaluationResult)


def outcome_of(evaluate: Callable[[], S]) -> S | Failure:
    """Returns what `evaluate` returns, or a failure if it raises or its score is not a number.

    Raises:
        OSError: a file cannot be read or written, which is the run's fault and not the candidate's.
        DataError: samples cannot be read, which is not the candidate's fault either.
    """
    try:
        with foreign_code():
            outcome = evaluate()
    except Diverged as fault:
        return Failure("nan", str(fault))
    except (torch.OutOfMemoryError, MemoryError) as fault:
        return Failure("out_of_memory", str(fault))
    except (OSError, DataError):
        raise
    except Exception as fault:  # the user's network, loss or data may raise anything
        return Failure("exception", describe(fault))
    score = outcome.score if isinstance(outcome, Stopped) else outcome
    return outcome if is_finite(score) else Failure("nan", _named(score))


def is_finite(score: Score) -> bool:
    """Returns whether everything that was measured is a number."""
    return all(map(math.isfinite, score.numbers().values()))


def _named(score: Score) -> str:
    return ", ".join(f"{name} {number}" for name, number in score.numbers().items() if not math.isfinite(number))


def retry_out_of_memory(run: Callable[[], R], retries: int) -> R:
    """Returns the result of `run`, repeated while memory runs out: another process may have taken it."""
    result = run()
    for _ in range(retries):
        if not isinstance(result.outcome, Failure) or result.outcome.kind != "out_of_memory":
            break
        result = run()
    return result
