"""A run as its folder tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from autoprune.core.ledger import NAME, History, read_history
from autoprune.core.sensitivity import SensitivityCurves, curves_from_json
from autoprune.core.trial import Objective, Score, Trial, ranked, winners
from autoprune.errors import RunFolderError, UserError
from autoprune.files import parse_json, read_whole
from autoprune.reporting.results import Result, results_in

State = Literal["finished", "going on", "interrupted"]


def is_being_written(folder: Path, records: str = NAME) -> bool:
    """Returns whether a process holds the lock of a file of records in a folder; False where that cannot be told."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        return False
    try:
        lock = os.open((folder / records).with_suffix(".lock"), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def sessions_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Returns the seconds that a run took, the time between an interruption and the resumption left out."""
    seconds = 0.0
    for before, record in pairwise(records):
        if record["event"] != "resumed":
            seconds += max(0.0, record["time"] - before["time"])
    return seconds


_STARTS = ("started", "resumed")


@dataclass(frozen=True)
class RunRecord:
    """A run as its ledger tells it; no network, data or checkpoint is needed to read it.

    Attributes:
        started: the newest `started` or `resumed` record; empty if the run was killed before it.
        settings: the experiment, nested as in its file; empty where nothing tells.
        trials: in the order told.
        told_at: number of a trial to when it was told, in seconds since 1970.
        asked: how many candidates were asked and not told.
        seconds: while it ran, interruptions left out.
    """

    folder: Path
    history: History
    started: Mapping[str, Any]
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]
    told_at: Mapping[int, float]
    asked: int
    state: State
    seconds: float

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def setting(self, path: str, default: Any = None) -> Any:
        """Returns the value at a dotted path of the settings, or the default where it is not known."""
        value: Any = self.settings
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else value

    @property
    def objective(self) -> Objective:
        named: Objective = self.setting("evaluation.objective", "loss")
        return named

    @property
    def identity(self) -> Mapping[str, Any]:
        """Names and digests of task, model, checkpoint and data."""
        found: Mapping[str, Any] = self.started.get("identity", {})
        return found

    @property
    def limits(self) -> Mapping[str, int]:
        found: Mapping[str, int] = self.started.get("limits", {})
        return found

    @cached_property
    def dense(self) -> Result | None:
        """The dense network: as the final table has it, before that on the samples that candidates are evaluated on."""
        for result in self.results:
            if result.name == "dense":
                return result
        record = self.history.last("dense")
        if record is None:
            return None
        return Result("dense", None, {}, Score.from_json(record["score"]), None, record["costs"], 0.0, self.effective)

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """The final table; empty before the run's end."""
        return tuple(results_in(self.history))

    @property
    def effective(self) -> bool:
        """Whether costs leave out weights that are set to zero."""
        params = self.started.get("params", {})
        return params.get("costs") == "effective" or any(result.effective for result in self.results)

    @cached_property
    def best(self) -> Trial | None:
        """The winner, or before the end the best so far; None where no trial has a score."""
        finished = self.history.last("finished")
        if finished is not None:
            return next((trial for trial in self.trials if trial.number == finished["best"]), None)
        return next(iter(winners(self.trials, self.objective)), None)

    @property
    def best_result(self) -> Result | None:
        return next((result for result in self.results if result.name == "best"), None)

    @property
    def best_validation(self) -> Score | None:
        """The best one's score: on all validation samples once the run has finished."""
        if self.best_result is not None:
            return self.best_result.validation
        return self.best.score if self.best else None

    @cached_property
    def curves(self) -> SensitivityCurves | None:
        """The sweep's curves, or those of the file that the search used; None if it used none."""
        return _curves_of_levels(self.history, self.groups) or _curves_in(self.folder)

    @property
    def groups(self) -> Mapping[str, int]:
        """Each group's dense width."""
        found: Mapping[str, int] = self.started.get("groups", {})
        return found

    @property
    def unit(self) -> int:
        """The multiply-adds of one evaluation: of the dense network, on the samples of candidates."""
        record = self.history.last("dense")
        return record["score"]["samples"] * record["costs"]["flops"] // 2 if record else 0

    @property
    def swept(self) -> int:
        """What the sweep cost, in multiply-adds."""
        return sum(record.get("work") or 0 for record in self.history.of("level"))

    @property
    def evaluations(self) -> float | None:
        """What the run has cost so far, in evaluations; None where the ledger does not tell."""
        if not self.unit or not any(trial.work for trial in self.trials):
            return None
        return 1 + (self.swept + sum(trial.work for trial in self.trials)) / self.unit


def read_record(folder: Path) -> RunRecord:
    """Reads what the folder of a run says, whether it has finished, goes on or was killed.

    Raises:
        RunFolderError: it is no run, or its ledger is damaged.
    """
    history = read_history(folder)
    try:
        return _record(folder, history)
    except RunFolderError as fault:
        raise RunFolderError(f"{folder}: {fault}") from fault
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise RunFolderError(f"{folder}: a record of its ledger is not what this release writes: {fault!r}") from fault


def _record(folder: Path, history: History) -> RunRecord:
    started: Mapping[str, Any] = next(
        (r for r in reversed(history.records) if r["event"] in ("started", "resumed")), {}
    )
    trials = history.trials()
    told = {record["number"]: float(record["time"]) for record in reversed(history.of("told"))}
    state: State = "finished" if history.last("finished") else "going on" if is_being_written(folder) else "interrupted"
    record = RunRecord(
        folder,
        history,
        started,
        started.get("settings", {}),
        tuple(trials),
        told,
        len(history.open_candidates()),
        state,
        sessions_seconds(history.records),
    )
    _ = record.results, record.dense, record.curves  # what is damaged shows here
    if state == "finished" and record.best is None:
        raise RunFolderError(f"its ledger names {history.last('finished')!r} as the end, but holds no such trial")
    return record


def _curves_of_levels(history: History, widths: Mapping[str, int]) -> SensitivityCurves | None:
    scores = {
        (record["group"], record["width"]): Score.from_json(record["score"])
        for record in history.of("level")
        if "score" in record
    }
    dense = scores.pop(("", 0), None)
    groups = list(dict.fromkeys(group for group, _ in scores))
    if dense is None or not groups or not set(groups) <= set(widths):
        return None
    levels = {group: {width: score for (name, width), score in scores.items() if name == group} for group in groups}
    return SensitivityCurves(dense, levels, {group: widths[group] for group in groups})


def _curves_in(folder: Path) -> SensitivityCurves | None:
    path = folder / "sensitivity.json"
    try:
        found = curves_from_json(parse_json(read_whole(path)), str(path))
    except (OSError, ValueError, UserError):  # the run's numbers do not depend on it
        return None
    return found[-1] if found else None


def best_so_far(trials: Sequence[Trial], objective: Objective) -> list[Trial | None]:
    """Returns after each trial the best final one until then, None before the first with a score."""
    best: list[Trial | None] = []
    for trial in trials:
        best.append(best_of(best[-1] if best else None, trial, objective))
    return best


def best_of(best: Trial | None, trial: Trial, objective: Objective) -> Trial | None:
    """Returns the better of the best final trial so far and a new one."""
    return next(iter(ranked([t for t in (best, trial) if t is not None], objective)), None)
