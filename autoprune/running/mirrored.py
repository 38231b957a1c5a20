"""What a mirror shows of a trial, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from autoprune.core.settings import text_of, written
from autoprune.core.trial import Score, Stopped, Trial

_NOT_IN_NAMES = re.compile(r"[^\w\-./: ]")


def trial_metrics(trial: Trial, dense: Mapping[str, int]) -> dict[str, float]:
    """What a child run shows of a trial, by name."""
    metrics: dict[str, float] = {kind: float(cost) for kind, cost in trial.costs.items()}
    for kind in ("flops", "params"):
        if kind in trial.costs and kind in dense:
            metrics[f"{kind}_kept"] = trial.costs[kind] / dense[kind]
    if isinstance(trial.outcome, Score):
        metrics |= _score_metrics(trial.outcome)
    elif isinstance(trial.outcome, Stopped):  # on a part of the images, so not under the names of whole judgements
        metrics |= {f"stopped_{name}": value for name, value in _score_metrics(trial.outcome.score).items()}
    return {**metrics, "seconds": round(trial.seconds, 3)}


def _score_metrics(score: Score) -> dict[str, float]:
    known = {"accuracy": score.accuracy, "loss": score.loss, "kl": score.kl, "images": score.images}
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
