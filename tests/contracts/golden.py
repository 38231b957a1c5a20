"""Golden traces: the widths of short searches. `python -m tests.contracts.golden NAME…` writes those of some searchers.

A trace holds the first candidates and how many there are in all. Of what stands on Optuna it holds only what comes
before its samplers: their floating-point sums may differ between machines and releases.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from autoprune.registry import resolve
from autoprune.searchers.knapsack import standard_starts
from autoprune.searchers.optuna_samplers import FIRST
from tests.repository import REPOSITORY
from tests.searchers.landscapes import Landscape, planted, run

_FOLDER = REPOSITORY / "tests" / "golden"


def path_of(name: str) -> Path:
    return _FOLDER / f"{name}.json"


def trace(name: str) -> dict[str, Any]:
    landscape = planted("golden", 1, streams=True)
    trials = run(landscape, resolve("searcher", name)(landscape.problem))
    first = [list(trial.candidate.allocation.values()) for trial in trials[: _shown(name, landscape)]]
    return {"groups": list(landscape.problem.space.names), "trials": len(trials), "first": first}


def _shown(name: str, landscape: Landscape) -> int:
    before = {"tpe": FIRST, "gp": FIRST, "cmaes": len(standard_starts(landscape.problem))}
    return before.get(name, 20)


if __name__ == "__main__":
    for each in sys.argv[1:]:
        path_of(each).write_text(json.dumps(trace(each)) + "\n")
