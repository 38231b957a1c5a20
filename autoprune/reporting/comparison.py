"""Runs as JSON: our own fields, and the layout in which NNI compares pruners."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from autoprune.core.trial import Trial
from autoprune.reporting.frontier import frontier
from autoprune.reporting.record import RunRecord
from autoprune.reporting.tables import progress

FORMAT = 1


def comparison_json(records: Sequence[RunRecord]) -> str:
    """Returns all runs as JSON, each with `comparison`, which is NNI's layout."""
    return _text({"format": FORMAT, "runs": [run_fields(record) for record in records]})


def nni_json(record: RunRecord) -> str:
    """Returns one run as JSON in NNI's layout and nothing else."""
    return _text(nni_fields(record))


def run_fields(record: RunRecord) -> dict[str, Any]:
    """Returns the fields of one run; what is not known is left out."""
    best, score, dense, tested = record.best, record.best_validation, record.dense, record.result("best")
    fields: dict[str, Any] = {
        "run": record.name,
        "state": record.state,
        "progress": progress(record),
        "searcher": record.setting("search.searcher"),
        "pruner": record.setting("pruner"),
        "task": record.task,
        "model": record.model,
        "budget": record.setting("budget"),
        "evaluations": record.evaluations,
        "best": best.number if best else None,
        "loss": score.loss if score else None,
        "metrics": dict(score.metrics) if score else None,
        "test": tested.test.numbers() if tested and tested.test else None,
        "kept": record.kept(best),
        "seconds": record.seconds,
        "folder": str(record.folder.resolve()),
        "objective": record.objective.name,
        "effective": record.effective,
        "identity": dict(record.identity),
        "limits": dict(record.limits),
        "widths": best.candidate.allocation.to_json() if best else None,
        "dense_widths": dict(record.groups),
        "networks": [result.to_json() for result in record.results],
        "dense": {"score": dense.validation.to_json(), "costs": dict(dense.costs)} if dense else None,
        "frontier": [trial.number for trial in frontier_of(record)],
        "trials": {
            "told": len(record.trials),
            "scored": sum(trial.score is not None for trial in record.trials),
            "failed": sum(trial.failed for trial in record.trials),
            "running": record.asked,
        },
        "command": list(record.started.get("command", ())),
        "environment": dict(record.started.get("environment", {})),
        "comparison": nni_fields(record),
    }
    return {name: value for name, value in fields.items() if value not in (None, {}, [])}


def frontier_of(record: RunRecord) -> list[Trial]:
    """Returns the final trials that none beats in the objective and all limited costs (FLOPs if none is) at once."""
    return frontier(record.trials, record.objective, list(record.limits) or ["flops"])


def nni_fields(record: RunRecord) -> dict[str, Any]:
    """Returns `performance`, `params` and `flops` as NNI's example of auto-pruners has them, as far as they are known.

    `original` is the dense network, `pruned` the masked one, `speedup` the one with smaller layers, `finetuned` what
    training made of it. Ours is checked to compute the same masked and with smaller layers, so these two are equal;
    where weights are only set to zero there is no `speedup`. Numbers are the primary metric's, on test samples if all
    are known, else on validation samples. Costs are ours: two FLOPs for each multiply-add, where NNI counts one.
    """
    dense, trial, score = record.dense, record.best, record.best_validation
    if dense is None:
        return {}
    name = record.primary.name
    original, found = dense.validation.get(name), score.get(name) if score else None
    trained = trial is not None and _trained(trial)
    untrained = _untrained(record, trial) if trial and trained else None
    tested = record.tested("best")
    if dense.test and tested is not None and untrained is None:
        original, found = dense.test.get(name), tested
    masked = untrained if trained else found
    smaller = None if record.effective else masked
    finetuned = found if trained else None
    performance = {"original": original, "pruned": masked, "speedup": smaller, "finetuned": finetuned}
    costs = {kind: {"original": dense.costs[kind]} for kind in ("params", "flops")}
    if trial and found is not None and not record.effective:
        for kind, of_kind in costs.items():
            of_kind["speedup"] = trial.costs[kind]
    return {"performance": {stage: value for stage, value in performance.items() if value is not None}, **costs}


def _trained(trial: Trial) -> bool:
    recipe = trial.candidate.recipe.to_json()
    return bool(recipe.get("finetune") or recipe.get("admm")) or trial.candidate.parent is not None


def _untrained(record: RunRecord, trial: Trial) -> float | None:
    """Returns the primary metric of the same widths without training, if a trial had them."""
    for other in record.trials:
        if other.score and other.candidate.allocation == trial.candidate.allocation and not _trained(other):
            return other.score.get(record.primary.name)
    return None


def _text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"
