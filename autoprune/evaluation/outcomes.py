"""What may go wrong with an evaluation, as its outcome."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from autoprune.core.trial import Failure, Outcome, Score, Stopped
from autoprune.errors import Diverged

Scored = TypeVar("Scored", bound=Score | Stopped)


class Ended(Protocol):
    """Whatever has come to an outcome."""

    @property
    def outcome(self) -> Outcome: ...


E = TypeVar("E", bound=Ended)


def outcome_of(evaluate: Callable[[], Scored]) -> Scored | Failure:
    """What `evaluate` returns; a failure where a score is not a number or something goes wrong.

    Raises:
        OSError: data cannot be read or a file not be written: the run's trouble, not the candidate's.
    """
    try:
        scored = evaluate()
    except Diverged as fault:
        return Failure("nan", str(fault))
    except (torch.OutOfMemoryError, MemoryError) as fault:
        return Failure("out_of_memory", str(fault))
    except OSError:
        raise
    except Exception as fault:  # the user's network, loss or data may raise anything
        return Failure("exception", f"{type(fault).__name__}: {fault}")
    score = scored.score if isinstance(scored, Stopped) else scored
    return scored if finite(score) else Failure("nan", f"loss {score.loss}, accuracy {score.accuracy}")


def finite(score: Score) -> bool:
    """Whether loss and accuracy are numbers, and the divergence if it was measured."""
    return all(math.isfinite(number) for number in (score.loss, score.accuracy, score.kl or 0.0))


def tried(do: Callable[[], E], retries: int) -> E:
    """What `do` comes to, done again where memory ran out: it may have been another process that took it."""
    ended = do()
    for _ in range(retries):
        if not isinstance(ended.outcome, Failure) or ended.outcome.kind != "out_of_memory":
            break
        ended = do()
    return ended
