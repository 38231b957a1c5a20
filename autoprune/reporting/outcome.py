"""What a finished run came to, as numbers by name."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.trial import Trial
from autoprune.reporting.results import Result


def outcome_metrics(results: Sequence[Result], trials: Sequence[Trial]) -> dict[str, float]:
    """The winner's numbers, and beside them those of the dense and the uniform network.

    Args:
        results: the final table, the dense network first and the best last.
    """
    dense, winner = results[0], results[-1]
    metrics: dict[str, float] = {
        "accuracy": winner.validation.accuracy,
        "loss": winner.validation.loss,
        **winner.costs,
        "flops_kept": winner.costs["flops"] / dense.costs["flops"],
        "params_kept": winner.costs["params"] / dense.costs["params"],
        "latency_ms": winner.latency_ms,
        "seconds": round(sum(round(trial.seconds, 3) for trial in trials), 3),
        "trials": len(trials),
        "failed_trials": sum(trial.failed for trial in trials),
    }
    for result in results:
        prefix = "" if result is winner else f"{result.name}_"
        metrics[f"{prefix}accuracy"] = result.validation.accuracy
        if result.test:
            metrics[f"{prefix}test_accuracy"] = result.test.accuracy
    return metrics
