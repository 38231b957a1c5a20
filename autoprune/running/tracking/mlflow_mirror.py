"""The mirror of a run in MLflow: one run for the search, and below it one for each trial."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from autoprune.config.credentials import mask
from autoprune.core.settings import text_of, written
from autoprune.core.trial import Failure, Outcome, Score, Stopped, Trial
from autoprune.evaluation.checkpoints.export import in_one_line
from autoprune.running.tracking.mlflow_client import (
    active_run,
    client,
    is_whole,
    open_experiment,
    write,
    write_inputs,
    write_model,
)
from autoprune.running.tracking.tracker import BestModel, RunDescription, RunOutcome

_NOT_IN_NAMES = re.compile(r"[^\w\-./: ]")


def trial_metrics(trial: Trial, dense: Mapping[str, int]) -> dict[str, float]:
    """What a child run shows of a trial, by name."""
    metrics: dict[str, float] = {kind: float(cost) for kind, cost in trial.costs.items()}
    for kind in ("flops", "params"):
        if kind in trial.costs and kind in dense:
            metrics[f"{kind}_kept"] = trial.costs[kind] / dense[kind]
    if isinstance(trial.outcome, Score):
        metrics |= _score_metrics(trial.outcome)
    elif isinstance(trial.outcome, Stopped):  # on a part of the samples, so not under the names of whole judgements
        metrics |= {f"stopped_{name}": value for name, value in _score_metrics(trial.outcome.score).items()}
    return {**metrics, "seconds": round(trial.seconds, 3)}


def _score_metrics(score: Score) -> dict[str, float]:
    known = {"accuracy": score.accuracy, "loss": score.loss, "kl": score.kl, "samples": score.samples}
    return {name: float(value) for name, value in known.items() if value is not None}


def trial_params(trial: Trial, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a child run shows of a candidate, by name."""
    recipe, settings = trial.candidate.recipe, trial.candidate.settings
    return {
        "searcher": params["searcher"],
        "pruner": params["pruner"],
        "costs": params["costs"],
        "recipe": " ".join(f"{name}={setting}" for name, setting in recipe.to_json().items()),
        "settings": written(dict(sorted(settings.items()))) or "none",
        **{f"settings.{_NOT_IN_NAMES.sub('_', name)}": text_of(value) for name, value in settings.items()},
        **{f"keep.{group}": width for group, width in trial.candidate.allocation.items()},
    }


log = logging.getLogger(__name__)

_STATES: Mapping[type[Outcome], str] = {Score: "scored", Stopped: "stopped", Failure: "failed"}
_DIGESTED = {"data": "task", "checkpoint": "model"}
"""What of a run's identity is a digest, and whose."""


class MlflowMirror:
    """One parent run for the search, one child run for each trial; whatever goes wrong is raised.

    Args:
        uri: the store or server; None leaves it to MLflow (`MLFLOW_TRACKING_URI`, else `sqlite:///mlflow.db`).
        experiment: name of the MLflow experiment.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        self._uri = uri
        self._experiment = experiment
        self._parent = ""

    def open(self, run: RunDescription) -> Collection[int]:
        self._run = run
        self._client = client(self._uri)
        self._experiment_id = open_experiment(self._client, self._experiment)
        self._parent = self._reopened(run) or self._new_parent(run)
        children = self._client.search_runs(
            [self._experiment_id], f"tags.`mlflow.parentRunId` = '{self._parent}'", max_results=50000
        )
        whole = {int(child.data.tags["autoprune.number"]): child for child in reversed(children) if is_whole(child)}
        for child in children:
            number = int(child.data.tags["autoprune.number"])
            if whole.get(number) is not child:  # half written at a crash or by a full store, or written twice
                self._client.delete_run(child.info.run_id)
            elif child.data.tags.get("autoprune.run") != run.key:  # an earlier release wrote it
                self._client.set_tag(child.info.run_id, "autoprune.run", run.key)
        return whole

    def told(self, trial: Trial, when: float, step: int, best: Trial | None) -> None:
        end = int(when * 1000)
        tags = {
            "mlflow.parentRunId": self._parent,
            "autoprune.role": trial.candidate.role,
            "autoprune.run": self._run.key,
            "autoprune.number": str(trial.number),
            "autoprune.budget": self._run.budget,
            "autoprune.costs": str(self._run.params["costs"]),
            "autoprune.state": _STATES[type(trial.outcome)],
            "autoprune.worker": trial.worker,
        }
        if isinstance(trial.outcome, Failure):
            tags["autoprune.failure"] = f"{trial.outcome.kind}: {trial.outcome.reason}"
        begin = end - int(trial.seconds * 1000)
        created = self._client.create_run(self._experiment_id, begin, tags, run_name=str(trial.number))
        run_id = created.info.run_id
        params = trial_params(trial, self._run.params)
        write(self._client, run_id, trial_metrics(trial, self._run.dense), params, when=end)
        if best is not None and best.score is not None:
            known = {"best_loss": best.score.loss, "best_accuracy": best.score.accuracy}
            write(self._client, self._parent, known, when=end, step=step)
        status = "FAILED" if isinstance(trial.outcome, Failure) else "FINISHED"
        self._client.set_terminated(run_id, status, end)

    def finish(self, outcome: RunOutcome) -> None:
        known = self._client.get_run(self._parent).data.metrics  # of a run that had finished and was resumed
        changed = {name: value for name, value in outcome.metrics.items() if known.get(name) != value}
        write(self._client, self._parent, changed, tags={"autoprune.best_trial": str(outcome.best)})
        for path in outcome.files:
            self._client.log_artifact(self._parent, str(path), "weights" if path.suffix == ".pt" else None)
        self._client.set_terminated(self._parent, "FINISHED", _milliseconds(self._run.ended))
        if outcome.model is not None:
            self._write_model(outcome.model)

    def _write_model(self, model: BestModel) -> None:
        """Last, as all else is whole without it, and exporting a large network takes its time."""
        try:
            write_model(self._client, self._parent, model)
        except Exception as fault:  # export refuses networks in many ways, and an older server knows no such models
            log.warning(
                "the best network is not logged as a model of MLflow, all else is (%s: %s); %s tries again, --set "
                "track.model=false leaves it out",
                type(fault).__name__,
                mask(in_one_line(fault)),
                shlex.join(["autoprune", "track", str(self._run.folder)]),
            )

    def interrupt(self) -> None:
        self._client.set_terminated(self._parent, "KILLED", _milliseconds(self._run.ended))

    def _reopened(self, run: RunDescription) -> str | None:
        """The mirror that is in the store already; None if there is none, or it was deleted."""
        found = self._client.search_runs(
            [self._experiment_id], f"tags.`autoprune.run` = '{run.key}' and tags.`autoprune.role` = 'search'"
        )
        noted = active_run(self._client, run.known) if run.known is not None and not found else None
        known = next(iter([*found, *([noted] if noted else [])]), None)
        if known is None:
            return None
        run_id = str(known.info.run_id)
        self._client.update_run(run_id, status="RUNNING")
        write(self._client, run_id, {}, tags={"autoprune.run": run.key, "autoprune.folder": str(run.folder.resolve())})
        return run_id

    def _new_parent(self, run: RunDescription) -> str:
        tags = {
            "autoprune.folder": str(run.folder.resolve()),
            "autoprune.budget": run.budget,
            "autoprune.costs": str(run.params["costs"]),
            "autoprune.command": shlex.join(run.command),
            **{f"autoprune.{kind}.digest": run.identity[kind] for kind, _ in _digests(run)},
            **{f"autoprune.environment.{name}": text for name, text in run.environment.items()},
        }
        name = run.folder.resolve().name
        key = {"autoprune.run": run.key, "autoprune.role": "search"}
        created = self._client.create_run(self._experiment_id, _milliseconds(run.begun), key, name)
        run_id = str(created.info.run_id)
        dense = {f"dense_{kind}": float(cost) for kind, cost in run.dense.items()}
        write(self._client, run_id, dense, {"budget": run.budget, **run.params}, tags)
        digests = {kind: (str(run.identity.get(whose, kind)), run.identity[kind]) for kind, whose in _digests(run)}
        write_inputs(self._client, run_id, digests)
        return run_id


def _digests(run: RunDescription) -> list[tuple[str, str]]:
    return [(kind, whose) for kind, whose in _DIGESTED.items() if kind in run.identity]


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
