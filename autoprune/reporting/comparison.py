"""Runs as JSON: our own fields, and the layout in which NNI compares pruners."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from autoprune.core.trial import Score, Trial
from autoprune.reporting.frontier import frontier
from autoprune.reporting.record import RunRecord
from autoprune.reporting.tables import summarise

FORMAT = 1


def comparison_json(records: Sequence[RunRecord]) -> str:
    """Returns all runs as JSON, each with `comparison`, which is NNI's layout."""
    return _text({"format": FORMAT, "runs": [run_fields(record) for record in records]})


def nni_json(record: RunRecord) -> str:
    """Returns one run as JSON in NNI's layout and nothing else."""
    return _text(nni_fields(record))


def run_fields(record: RunRecord) -> dict[str, Any]:
    """Returns the fields of one run; what is not known is left out."""
    best = record.best
    fields: dict[str, Any] = {
        **asdict(summarise(record)),
        "folder": str(record.folder.resolve()),
        "objective": record.objective,
        "effective": record.effective,
        "identity": dict(record.identity),
        "limits": dict(record.limits),
        "widths": best.candidate.allocation.to_json() if best else None,
        "dense_widths": dict(record.groups),
        "networks": [result.to_json() for result in record.results],
        "dense": {"score": record.dense.validation.to_json(), "costs": dict(record.dense.costs)}
        if record.dense
        else None,
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
    where weights are only set to zero there is no `speedup`. Accuracies are those on test samples if all are known,
    else on validation samples. Costs are ours: two FLOPs for each multiply-add, where NNI counts one.
    """
    dense, trial = record.dense, record.best
    if dense is None:
        return {}
    original, found = _accuracies(record, trial)
    performance = {"original": original}
    params, flops = {"original": dense.costs["params"]}, {"original": dense.costs["flops"]}
    if trial is not None and found is not None:
        if _trained(trial):
            performance["finetuned"] = found
            untrained = _untrained(record, trial)
            found = untrained.accuracy if untrained else None
        if found is not None:
            performance["pruned"] = found
        if not record.effective:
            if found is not None:
                performance["speedup"] = found
            params["speedup"], flops["speedup"] = trial.costs["params"], trial.costs["flops"]
    order = ("original", "pruned", "speedup", "finetuned")
    return {
        "performance": {name: performance[name] for name in order if name in performance},
        "params": params,
        "flops": flops,
    }


def _accuracies(record: RunRecord, trial: Trial | None) -> tuple[float, float | None]:
    """Returns the accuracy of the dense network and of the best one, both on the same samples."""
    dense, result, score = record.dense, record.best_result, record.best_validation
    assert dense is not None  # the caller looked
    mixed = trial is not None and _trained(trial) and _untrained(record, trial) is not None
    if dense.test and result and result.test and not mixed:
        return dense.test.accuracy, result.test.accuracy
    return dense.validation.accuracy, score.accuracy if score else None


def _trained(trial: Trial) -> bool:
    recipe = trial.candidate.recipe.to_json()
    return bool(recipe.get("finetune") or recipe.get("admm")) or trial.candidate.parent is not None


def _untrained(record: RunRecord, trial: Trial) -> Score | None:
    """Returns the score of the same widths without training, if a trial had them."""
    for other in record.trials:
        if other.score and other.candidate.allocation == trial.candidate.allocation and not _trained(other):
            return other.score
    return None


def _text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, indent=1, allow_nan=False) + "\n"
