"""How a search and a training appear in MLflow, as plain values."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.config.credentials import usable_uri
from autoprune.core.ledger import NAME, read_records
from autoprune.core.settings import format_setting, format_settings
from autoprune.core.trial import Candidate, Failure, Outcome, Score, Stopped, Trial
from autoprune.errors import RunFolderError
from autoprune.reporting.record import best_of, read_record
from autoprune.reporting.results import outcome_metrics
from autoprune.running.run_folder import RunFolder

EXPERIMENT = "autoprune"
"""MLflow's experiment, where none is named."""
TRAINING = "training.jsonl"
SEARCH_ROLE, TRAINING_ROLE = "search", "training"
_STATES: Mapping[type[Outcome], str] = {Score: "scored", Stopped: "stopped", Failure: "failed"}
_DIGESTED = {"data": "task", "checkpoint": "model"}
"""What of a run's identity is a digest, and whose."""
# MLflow takes no other characters in names; a slash would open a section of its own.
_NOT_IN_NAMES = re.compile(r"[^\w\-.: ]")
_NAME_LENGTH = 240
"""What MLflow takes, a prefix left out."""


@dataclass(frozen=True)
class Point:
    """Metrics at one step of a curve.

    Attributes:
        when: they were measured, in seconds since 1970.
    """

    step: int
    when: float
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class RunContent:
    """One run of MLflow.

    Attributes:
        key: of the folder that it shows, the same wherever the folder lies.
        begin: in seconds since 1970, as `end` is.
        inputs: by what it is for, the name and digest of what was read.
        number: of the trial; None for a run that has none.
        parent: id of a run of the user's that it belongs below, if the store has that.
    """

    key: str
    role: str
    name: str
    begin: float
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    number: int | None = None
    parent: str | None = None
    status: str = "FINISHED"
    end: float = 0.0


@dataclass(frozen=True)
class RunEnd:
    """What is written when a run ends.

    Attributes:
        files: what is kept with it.
        best: number of the best trial, if the run has finished and it has one.
        wants_model: whether the best trial's network is to be logged as a model.
    """

    status: str
    end: float
    metrics: Mapping[str, float]
    files: Sequence[Path]
    best: int | None = None
    wants_model: bool = False


class SearchReader:
    """A search's records as MLflow shows them: a run of its own, and below it one for each trial.

    Attributes:
        path: the file of records.

    Raises:
        RunFolderError: the folder is no run, its ledger is damaged, or has no dense network yet.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._record = read_record(folder)
        if not self._record.history.records or self._record.dense is None:
            raise RunFolderError(f"{folder} has nothing to mirror yet: its ledger has no dense network")
        self._dense = self._record.dense.costs
        self._params: Mapping[str, Any] = self._record.started["params"]
        self._budget = str(self._record.setting("budget", "none"))
        self._tags = {"autoprune.budget": self._budget, "autoprune.costs": str(self._params["costs"])}
        self._key = run_key(self.path)
        self._candidates: dict[int, Candidate] = {}
        self._best: Trial | None = None
        self._told: set[int] = set()

    def describe(self) -> RunContent:
        """Returns the run that stands for the folder, as it is made first."""
        record, first = self._record, self._record.history.records[0]
        inputs = {kind: (record.identity[whose], record.identity[kind]) for kind, whose in _DIGESTED.items()}
        return RunContent(
            self._key,
            SEARCH_ROLE,
            record.name,
            first["time"],
            {
                **self._tags,
                "autoprune.command": shlex.join(record.started.get("command", ())),
                **{f"autoprune.{kind}.digest": digest for kind, (_, digest) in inputs.items()},
                **{f"autoprune.environment.{name}": text for name, text in record.started["environment"].items()},
            },
            {"budget": self._budget, **self._params},
            {f"dense_{kind}": float(cost) for kind, cost in self._dense.items()},
            inputs,
            parent=first.get("mlflow_run"),
        )

    def take(self, record: Mapping[str, Any]) -> tuple[RunContent | None, Point | None]:
        """Returns the trial that a record tells and the point that it adds to the run's curves.

        Every record is taken once, in order.
        """
        if record["event"] == "asked":
            self._candidates.setdefault(record["number"], Candidate.from_json(record))
        if record["event"] != "told" or record["number"] in self._told:  # a trial counts the first time it is told
            return None, None
        trial = Trial.from_json(record, self._candidates[record["number"]])
        self._told.add(trial.number)
        self._best = best_of(self._best, trial, self._record.objective)
        best = self._best.score if self._best else None
        metrics = {} if best is None else {f"best_{allowed(name)}": value for name, value in best.numbers().items()}
        return self._trial(trial, record["time"]), Point(len(self._told), record["time"], metrics)

    def _trial(self, trial: Trial, when: float) -> RunContent:
        failure = trial.outcome if isinstance(trial.outcome, Failure) else None
        tags = {
            **self._tags,
            "autoprune.state": _STATES[type(trial.outcome)],
            "autoprune.worker": trial.worker,
            **({"autoprune.failure": f"{failure.kind}: {failure.reason}"} if failure else {}),
        }
        return RunContent(
            self._key,
            trial.candidate.role,
            str(trial.number),
            when - trial.seconds,
            tags,
            trial_params(trial, self._params),
            trial_metrics(trial, self._dense),
            number=trial.number,
            status="FAILED" if failure else "FINISHED",
            end=when,
        )

    def conclude(self) -> RunEnd:
        """Returns the end of the run, finished or not."""
        record = read_record(self.path.parent)
        finished, end = record.history.last("finished"), record.history.records[-1]["time"]
        if finished is None or not record.results:
            return RunEnd("KILLED", end, {}, ())
        folder, best = RunFolder(record.folder), int(finished["best"])
        paths = [*folder.outputs, folder.experiment, folder.weights_of(best)]
        files = [path for path in paths if path.is_file()]
        wants_model = bool(record.setting("track.model", False)) and folder.weights_of(best).is_file()
        return RunEnd("FINISHED", end, outcome_metrics(record.results, record.trials), files, best, wants_model)


class TrainingReader:
    """A training's records as MLflow shows them: one run with curves over its epochs.

    Attributes:
        path: the file of records.

    Raises:
        RunFolderError: its records are damaged, or there are none.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / TRAINING
        self._records = read_records(self.path)
        if not self._records:
            raise RunFolderError(f"{folder} has nothing to mirror yet: {self.path} is empty")
        self._known: set[str] = set()

    def describe(self) -> RunContent:
        """Returns the run that stands for the folder, as it is made first."""
        first = self._records[0]
        params = {allowed(name): value for name, value in first["params"].items()}
        name = self.path.parent.resolve().name
        return RunContent(run_key(self.path), TRAINING_ROLE, name, first["time"], params=params)

    def take(self, record: Mapping[str, Any]) -> tuple[None, Point | None]:
        """Returns no trial, and the point that a record adds to the run's curves."""
        measured = {allowed(key): value for key, value in record.items() if isinstance(value, float) and key != "time"}
        text = repr((record["event"], record.get("epochs"), sorted(measured.items())))
        if "epochs" not in record or "loss" not in record or text in self._known:
            return None, None  # what is measured again after a resumption is the same
        self._known.add(text)
        return None, Point(max(1, record["epochs"]), record["time"], measured)  # step 0 would draw bars, not lines

    def conclude(self) -> RunEnd:
        """Returns the end of the run, finished or not."""
        records = read_records(self.path)
        finished = next((record for record in reversed(records) if record["event"] == "finished"), None)
        end = records[-1]["time"]
        if finished is None:
            return RunEnd("KILLED", end, {}, ())
        metrics = {f"final_{allowed(name)}": v for name, v in finished.items() if name not in ("event", "time")}
        paths = [self.path.parent / "schedule.yaml", RunFolder(self.path.parent).experiment, self.path]
        return RunEnd("FINISHED", end, metrics, [path for path in paths if path.is_file()])


def reader_of(folder: Path) -> SearchReader | TrainingReader:
    """Returns the reader of a search's or of a training's folder.

    Raises:
        RunFolderError: it is neither, or its records are damaged.
    """
    if (folder / TRAINING).is_file() and not (folder / NAME).is_file():
        return TrainingReader(folder)
    return SearchReader(folder)


def trial_metrics(trial: Trial, dense: Mapping[str, int]) -> dict[str, float]:
    """Returns what is shown of a trial, by name.

    Args:
        dense: the dense network's costs.
    """
    metrics = {kind: float(cost) for kind, cost in trial.costs.items()}
    metrics |= {f"{kind}_kept": trial.costs[kind] / dense[kind] for kind in ("flops", "params") if kind in trial.costs}
    metrics |= {allowed(name): float(value) for name, value in _measured(trial).items()}
    return {**metrics, "seconds": round(trial.seconds, 3)}


def _measured(trial: Trial) -> dict[str, float]:
    """Returns what was measured of a trial; on a part of the samples alone it is not under the names of whole ones."""
    outcome, prefix = (trial.outcome.score, "stopped_") if isinstance(trial.outcome, Stopped) else (trial.score, "")
    known = {} if outcome is None else {**outcome.numbers(), "samples": outcome.samples}
    return {f"{prefix}{name}": value for name, value in known.items()}


def trial_params(trial: Trial, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is shown of a candidate, by name.

    Args:
        params: of the search.
    """
    recipe, settings = trial.candidate.recipe, trial.candidate.settings
    return {
        "searcher": params["searcher"],
        "pruner": params["pruner"],
        "costs": params["costs"],
        "recipe": " ".join(f"{name}={setting}" for name, setting in recipe.to_json().items()),
        "settings": format_settings(dict(sorted(settings.items()))) or "none",
        **{f"settings.{allowed(name)}": format_setting(value) for name, value in settings.items()},
        **{f"keep.{allowed(group)}": width for group, width in trial.candidate.allocation.items()},
    }


def trial_row(trial: Trial, dense: Mapping[str, int]) -> dict[str, Any]:
    """Returns a trial as one row of plain values, by name.

    Args:
        dense: the dense network's costs.
    """
    failure = trial.outcome if isinstance(trial.outcome, Failure) else None
    return {
        "trial": trial.number,
        "role": trial.candidate.role,
        "state": _STATES[type(trial.outcome)],
        **_measured(trial),
        **trial.costs,
        **{f"{kind}_kept": cost / dense[kind] for kind, cost in trial.costs.items()},
        "seconds": round(trial.seconds, 3),
        **{f"settings.{name}": value for name, value in trial.candidate.settings.items()},
        **{f"keep.{group}": width for group, width in trial.candidate.allocation.items()},
        **({"failure": f"{failure.kind}: {failure.reason}"} if failure else {}),
    }


def allowed(name: str) -> str:
    """Returns a name of the user's as MLflow takes it."""
    return _NOT_IN_NAMES.sub("_", name)[:_NAME_LENGTH]


def run_key(records: Path) -> str:
    """Returns a digest of a file's first record, which holds when the run was started and on what."""
    with open(records, "rb") as file:
        return hashlib.sha256(file.readline()).hexdigest()[:16]


def track_command(folder: Path) -> str:
    """Returns the command that brings a folder's mirror up to its records."""
    return shlex.join(["autoprune", "track", str(folder)])


def store_of_run(folder: Path, uri: str | None, experiment: str | None) -> tuple[str | None, str]:
    """Returns the store (None: MLflow's default) and the experiment of a run.

    Args:
        uri: where given, it is used instead of the run's own.
        experiment: likewise.

    Raises:
        RunFolderError: the folder is no run.
        UserError: the store was named with credentials, which are not kept.
    """
    if (folder / TRAINING).is_file():
        settings: Mapping[str, Any] = read_records(folder / TRAINING)[0].get("settings", {}).get("track", {})
    else:
        record = read_record(folder)
        settings = {key: record.setting(f"track.{key}") for key in ("uri", "experiment")}
    return uri or usable_uri(settings.get("uri")), experiment or settings.get("experiment") or EXPERIMENT
