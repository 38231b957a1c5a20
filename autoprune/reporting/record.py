"""A run as its folder tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from autoprune.core.ledger import NAME, History, read_history
from autoprune.core.metrics import LOSS, MetricInfo, Objective, infos_from_json, primary
from autoprune.core.sensitivity import SensitivityCurves, curves_from_json
from autoprune.core.trial import Score, Trial, ranked, winners
from autoprune.errors import RunFolderError, UserError
from autoprune.files import parse_json, read_whole
from autoprune.reporting.results import Result, results_in

State = Literal["finished", "going on", "interrupted"]


def is_being_written(folder: Path, records: str = NAME) -> bool:
    """Returns whether a process holds the lock of a file of records in a folder; False where that cannot be told."""
    try:
        import fcntl

        with open((folder / records).with_suffix(".lock"), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # not a Unix, or no lock
        return False
    return False


def sessions_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Returns the seconds that a run took, the time between an interruption and the resumption left out."""
    steps = [(before["time"], record["time"]) for before, record in pairwise(records) if record["event"] != "resumed"]
    return sum((max(0.0, after - before) for before, after in steps), 0.0)


@dataclass(frozen=True)
class RunRecord:
    """A run as its ledger tells it; no network, data or checkpoint is needed to read it.

    Attributes:
        started: the newest `started` or `resumed` record; empty if the run was killed before it.
        trials: in the order told.
        asked: how many candidates were asked and not told.
        seconds: while it ran, interruptions left out.
        settings: the experiment, nested as in its file; empty where nothing tells.
        identity: names and digests of task, model, checkpoint and data.
        limits: the most that each limited cost may be: FLOPs, parameters or bytes.
        groups: each group's dense width.
    """

    folder: Path
    history: History
    state: State
    started: Mapping[str, Any]
    trials: tuple[Trial, ...]
    asked: int
    seconds: float
    settings: Mapping[str, Any]
    identity: Mapping[str, str]
    limits: Mapping[str, int]
    groups: Mapping[str, int]

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
    def task(self) -> str | None:
        """Name of the task; None where nothing tells."""
        name: str | None = self.identity.get("task", self.setting("task.name"))
        return name

    @property
    def model(self) -> str | None:
        """Name of the network; None where nothing tells."""
        name: str | None = self.identity.get("model", self.setting("task.model"))
        return name

    @property
    def start(self) -> str:
        """Remark on the network that the search started from, and calls dense; empty where it is the first."""
        return str(self.started.get("start", ""))

    @property
    def objective(self) -> Objective:
        """What the search minimised or maximised."""
        found = self.started.get("objective")
        return MetricInfo(**found) if found else LOSS

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """The metrics of the task."""
        return infos_from_json(self.started.get("metrics", ()))

    @property
    def primary(self) -> MetricInfo:
        """By what networks are described where there is room for one number."""
        return primary(self.objective, self.metrics)

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """The final table; empty before the run's end."""
        return tuple(results_in(self.history))

    def result(self, name: str) -> Result | None:
        """Returns the row of the final table that is called `dense`, `uniform` or `best`; None where there is none."""
        return next((result for result in self.results if result.name == name), None)

    @cached_property
    def dense(self) -> Result | None:
        """The dense network: as the final table has it, before that on the samples that candidates are evaluated on."""
        found, record = self.result("dense"), self.history.last("dense")
        if found is not None or record is None:
            return found
        return Result("dense", None, {}, Score.from_json(record["score"]), None, record["costs"], 0.0, self.effective)

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
    def best_validation(self) -> Score | None:
        """The best one's score: on all validation samples once the run has finished."""
        if (found := self.result("best")) is not None:
            return found.validation
        return self.best.score if self.best else None

    def tested(self, name: str) -> float | None:
        """Returns the primary metric of a network of the final table on test samples; None where it is not known."""
        found = self.result(name)
        return found.test.get(self.primary.name) if found and found.test else None

    def kept(self, trial: Trial | None) -> dict[str, float]:
        """Returns, by kind of cost, the share of the dense network's that a trial keeps; empty if unknown."""
        if trial is None or self.dense is None:
            return {}
        dense = self.dense.costs
        return {kind: cost / dense[kind] for kind, cost in trial.costs.items() if kind in dense}

    @cached_property
    def curves(self) -> SensitivityCurves | None:
        """The sweep's curves, or those of the file that the search used; None if it used none."""
        return _curves_of_levels(self.history, self.groups) or _curves_in(self.folder)

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
    begun = (record for record in reversed(history.records) if record["event"] in ("started", "resumed"))
    started: Mapping[str, Any] = next(begun, {})
    record = RunRecord(
        folder,
        history,
        "finished" if history.last("finished") else "going on" if is_being_written(folder) else "interrupted",
        started,
        tuple(history.trials()),
        len(history.open_candidates()),
        sessions_seconds(history.records),
        **{name: started.get(name, {}) for name in ("settings", "identity", "limits", "groups")},
    )
    _ = record.results, record.dense, record.curves, record.objective, record.metrics  # what is damaged shows here
    if record.state == "finished" and record.best is None:
        raise RunFolderError(f"its ledger names {history.last('finished')!r} as the end, but holds no such trial")
    return record


def _curves_of_levels(history: History, widths: Mapping[str, int]) -> SensitivityCurves | None:
    levels: dict[str, dict[int, Score]] = {}
    for record in history.of("level"):
        if "score" in record:
            levels.setdefault(record["group"], {})[record["width"]] = Score.from_json(record["score"])
    dense = levels.pop("", {}).get(0)
    if dense is None or not levels or not levels.keys() <= widths.keys():
        return None
    return SensitivityCurves(dense, levels, {group: widths[group] for group in levels})


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
    """Returns the better of the best final trial so far and a new one.

    Args:
        best: the best so far; None before the first with a score.
        trial: is passed over unless it is a final one with a score; of equal ones the lower number wins.
        objective: by which they are compared.
    """
    return next(iter(ranked([t for t in (best, trial) if t is not None], objective)), None)
