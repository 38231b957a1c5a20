"""What a search recorded of a network, with which it is compared when it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoprune.core.ledger import History
from autoprune.core.trial import Failure, Score, Stopped, Trial
from autoprune.errors import UserError

_SHOWN = 12


@dataclass(frozen=True)
class RecordedResult:
    """The recorded result of a trial; a `best.yaml` written by hand may hold none of it.

    Attributes:
        score: on the most validation samples that it was evaluated on; 0 samples where their number is not recorded.
        costs: FLOPs, parameters and bytes, as they were counted then.
        digest: of the dense network's weights.
        dropped: whether its evaluation ended early.
        remark: what else to know of it.
    """

    score: Score | None = None
    costs: Mapping[str, int] = field(default_factory=dict)
    digest: str | None = None
    dropped: bool = False
    remark: str = ""

    @classmethod
    def of_trial(cls, history: History, trial: Trial) -> RecordedResult:
        """Returns what a run's ledger says of one of its trials."""
        started = history.last("started")
        digest = started["identity"]["checkpoint"] if started else None
        outcome, remark = trial.outcome, ""
        assert not isinstance(outcome, Failure), "a failed trial has no result"
        if trial.candidate.role == "intermediate":
            remark = f"trial {trial.number} is a step of a round on the way: the run's budget was not its limit"
        if isinstance(outcome, Stopped):
            return cls(outcome.score, trial.costs, digest, True, remark)
        return cls(_on_all_samples(history, trial.number) or outcome, trial.costs, digest, False, remark)

    @classmethod
    def of_best(cls, content: Mapping[str, Any]) -> RecordedResult:
        """Returns what a `best.yaml` says."""
        accuracy, loss, samples = (_number(content.get(name)) for name in ("accuracy", "loss", "samples"))
        score = None if accuracy is None or loss is None else Score(loss, accuracy, int(samples or 0))
        found = content.get("costs")
        costs = {str(kind): cost for kind, cost in found.items()} if isinstance(found, dict) else {}
        digest = content.get("checkpoint_sha256")
        return cls(score, costs, None if digest is None else str(digest))

    def holds_for(self, digest: str) -> bool:
        """Returns whether the dense network's weights are those that were searched on, as far as that is recorded."""
        return self.digest in (None, digest)

    def other_weights(self, digest: str, whose: str, source: str) -> UserError:
        """Returns the error for weights that were not searched on.

        Args:
            digest: of those weights.
            whose: where they come from, in words.
            source: the run or file that was searched on others.
        """
        assert self.digest is not None, "it holds for any"
        return UserError(
            f"{whose} has other weights than {source} was searched on (SHA-256 {digest[:_SHOWN]}…, not "
            f"{self.digest[:_SHOWN]}…), and what was measured does not hold for them; give the ones searched on with "
            "--checkpoint, or have these pruned to the same widths with --force"
        )


def _on_all_samples(history: History, number: int) -> Score | None:
    """Returns the score at the end of a run, if the trial was among its best."""
    rows = {record["number"]: record["validation"] for record in history.of("result") if record["number"] is not None}
    reevaluated = {record["number"]: record["score"] for record in history.of("reevaluated")}
    found = {**reevaluated, **rows}.get(number)
    return None if found is None else Score.from_json(found)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
