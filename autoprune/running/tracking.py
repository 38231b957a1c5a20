"""What a mirror of the ledger must offer; MLflow's is in `mlflow_tracker`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from autoprune.core.trial import Trial


@dataclass(frozen=True)
class RunDescription:
    """What a mirror is told of a run at its start.

    Attributes:
        params: what was chosen, by name.
        dense: the dense network's FLOPs, parameters and bytes.
    """

    folder: Path
    budget: str
    params: Mapping[str, Any]
    dense: Mapping[str, int]


@dataclass(frozen=True)
class RunOutcome:
    """What a mirror is told at the end.

    Attributes:
        best: number of the best trial.
        files: what to keep beside the records.
    """

    best: int
    metrics: Mapping[str, float]
    files: Sequence[Path]


class Tracker(Protocol):
    """A mirror of the ledger; what goes wrong in it never stops a search."""

    def start(self, run: RunDescription, known: str | None) -> str | None:
        """Begins to mirror a run, or goes on with the mirror `known`; what identifies the mirror, or None."""

    def told(self, trial: Trial) -> None:
        """Mirrors one trial, unless it has been before."""

    def finish(self, outcome: RunOutcome) -> None:
        """Writes the outcome and closes the mirror."""

    def interrupt(self) -> None:
        """Closes the mirror of a run that stopped early."""


class NoTracker:
    """Mirrors nothing."""

    def start(self, run: RunDescription, known: str | None) -> str | None:
        return None

    def told(self, trial: Trial) -> None:
        return None

    def finish(self, outcome: RunOutcome) -> None:
        return None

    def interrupt(self) -> None:
        return None


class CurveTracker(Protocol):
    """A mirror of one training; what goes wrong in it never stops the training."""

    def start(self, folder: Path, params: Mapping[str, Any], known: str | None) -> str | None:
        """Begins to mirror a training, or goes on with the mirror `known`; what identifies the mirror, or None."""

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Adds a point to each curve, at a number of epochs that have passed."""

    def finish(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Writes the outcome and closes the mirror."""

    def interrupt(self) -> None:
        """Closes the mirror of a training that stopped early."""


class NoCurves:
    """Mirrors nothing."""

    def start(self, folder: Path, params: Mapping[str, Any], known: str | None) -> str | None:
        return None

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        return None

    def finish(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        return None

    def interrupt(self) -> None:
        return None
