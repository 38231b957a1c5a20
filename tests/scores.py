"""Scores of classifiers."""

from __future__ import annotations

from typing import Any

from autoprune.core.metrics import MetricInfo
from autoprune.core.trial import Score

ACCURACY = MetricInfo("accuracy", "maximize", "%")


def scored(loss: float, accuracy: float, samples: int, **further: Any) -> Score:
    """Returns a score with a loss and an accuracy."""
    return Score(loss, {"accuracy": accuracy}, samples, **further)
