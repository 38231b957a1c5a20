"""What a mirror of the ledger must offer; MLflow's is in `mlflow_tracker`."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.core.ledger import NAME
from autoprune.core.trial import Objective, Trial
from autoprune.reporting.record import RunRecord
from autoprune.reporting.results import Result, outcome_metrics
from autoprune.running.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class RunDescription:
    """What a mirror is told of a run at its start.

    Attributes:
        key: the same for a run wherever its folder lies and whoever mirrors it, another for every run.
        known: the mirror that an earlier release noted in the ledger.
        params: what was chosen, by name.
        dense: the dense network's FLOPs, parameters and bytes.
        groups: each group's dense width.
        identity: names and digests of task, model, checkpoint and data.
        told_at: number of a trial to when it was told, in seconds since 1970, as far as the ledger goes.
        begun: the time of its first record.
        ended: the time of its last one; None while it goes on.
    """

    folder: Path
    key: str
    known: str | None
    budget: str
    objective: Objective
    params: Mapping[str, Any]
    dense: Mapping[str, int]
    groups: Mapping[str, int]
    identity: Mapping[str, str]
    command: Sequence[str]
    environment: Mapping[str, str]
    told_at: Mapping[int, float]
    begun: float | None = None
    ended: float | None = None


def describe(record: RunRecord) -> RunDescription:
    """The description of a run, from its ledger alone."""
    tracked = record.history.last("tracked")
    params = record.started.get("params") or _settings(record)
    records = record.history.records
    return RunDescription(
        record.folder,
        run_key(record.folder),
        tracked["mirror"] if tracked else None,
        str(record.setting("budget", "none")),
        record.objective,
        params,
        record.dense.costs if record.dense else {},
        record.groups,
        record.identity,
        record.started.get("command", ()),
        record.started.get("environment", {}),
        record.told_at,
        records[0]["time"] if records else None,
        records[-1]["time"] if records and record.state != "going on" else None,
    )


def run_key(folder: Path) -> str:
    """A digest of the first record of a run's ledger, which holds when it was started and on what."""
    with open(folder / NAME, "rb") as file:
        return hashlib.sha256(file.readline()).hexdigest()[:16]


def _settings(record: RunRecord) -> dict[str, Any]:
    """What an earlier release's ledger leaves to the experiment's file."""
    scoring = record.started.get("scoring", {})
    search = {name: record.setting(f"search.{name}") for name in ("searcher", "trials", "evaluations", "seed")}
    return {
        **search,
        "pruner": record.setting("pruner"),
        "costs": "effective" if record.effective else "actual",
        **{f"scoring.{key}": value for key, value in scoring.items() if key != "pruner"},
        "objective": record.objective,
        "samples": record.setting("evaluation.samples"),
        **{key: record.identity.get(key) for key in ("task", "model")},
        "space": record.setting("space.source"),
    }


@dataclass(frozen=True)
class BestModel:
    """The best trial's network, in evaluation mode on the CPU; whoever mirrors it owns it.

    Attributes:
        inputs: `[2, …]` samples that it takes; with one alone the number of samples would be exported as fixed.
    """

    trial: int
    network: nn.Module
    inputs: Tensor


@dataclass(frozen=True)
class RunOutcome:
    """What a mirror is told at the end.

    Attributes:
        best: number of the best trial.
        files: what to keep beside the records.
        model: its network, where that is to be logged as a model.
    """

    best: int
    metrics: Mapping[str, float]
    files: Sequence[Path]
    model: BestModel | None = None


def outcome_of(folder: RunFolder, best: int, results: Sequence[Result], trials: Sequence[Trial]) -> RunOutcome:
    """What a finished run leaves to its mirror."""
    paths = [
        folder.best,
        folder.results,
        folder.frontier,
        folder.frontier_table,
        folder.experiment,
        *map(folder.sensitivity, ("png", "csv", "json")),
        folder.weights_of(best),
    ]
    return RunOutcome(best, outcome_metrics(results, trials), [path for path in paths if path.is_file()])


class Mirror(Protocol):
    """A copy of a ledger elsewhere. Whatever goes wrong in it is raised; every method may be called again then."""

    def open(self, run: RunDescription) -> Collection[int]:
        """Finds the mirror of a run or makes it; the numbers of the trials that it holds."""

    def told(self, trial: Trial, when: float, step: int, best: Trial | None) -> None:
        """Adds a trial.

        Args:
            when: it was told, in seconds since 1970.
            step: how many trials were told until then, this one too.
            best: of those.
        """

    def finish(self, outcome: RunOutcome) -> None:
        """Writes the outcome and closes the mirror."""

    def interrupt(self) -> None:
        """Closes the mirror of a run that stopped early."""


class Tracker(Protocol):
    """Who mirrors a run; what goes wrong with it never stops or slows a search."""

    def start(self, run: RunDescription) -> None:
        """Begins to mirror a run, or goes on."""

    def told(self, trial: Trial) -> None:
        """Mirrors one trial, unless it has been before."""

    def finish(self, outcome: RunOutcome) -> None:
        """Mirrors the outcome, and waits for a while until all is mirrored."""

    def interrupt(self) -> None:
        """Notes that the run stopped early."""


class NoTracker:
    """Mirrors nothing."""

    def start(self, run: RunDescription) -> None:
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
