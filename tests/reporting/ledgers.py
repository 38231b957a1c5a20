"""Ledgers of small made-up runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoprune.core.allocation import Allocation
from autoprune.core.ledger import Ledger
from autoprune.core.metrics import LOSS, infos_to_json
from autoprune.core.recipe import Finetune, Recipe
from autoprune.core.trial import Candidate, Failure, Outcome, Stopped, Trial
from autoprune.reporting.results import Result
from tests.scores import ACCURACY, scored

DENSE_COSTS = {"flops": 2000, "params": 400, "size": 1600}
LIMITS = {"flops": 1000}
WIDTHS = {"a": 8, "b": 4}
IDENTITY = {"task": "digits", "model": "tiny", "checkpoint": "c0ffee", "data": "da7a"}
SETTINGS = {
    "task": {"name": "digits", "data": None, "model": None},
    "pruner": "l1_filter",
    "budget": "flops=0.5",
    "search": {"searcher": "auto", "trials": 5, "seed": 0},
    "evaluation": {"objective": "loss", "samples": 100},
    "track": {"uri": None, "experiment": "autoprune"},
}
OUTCOMES: tuple[Outcome, ...] = (
    scored(0.5, 0.80, 100),
    Stopped(scored(0.9, 0.60, 10)),
    Failure("nan", "the loss is not finite"),
    scored(0.3, 0.90, 100),
    scored(0.4, 0.85, 100),
)


def trial(number: int, outcome: Outcome, **named: Any) -> Trial:
    """Keeps `8 - number` of group a; half of the FLOPs and less by one for every number."""
    allocation = Allocation({"a": 8 - number, "b": 2})
    costs = {"flops": 1000 - number, "params": 200 - number, "size": 800}
    candidate = Candidate(number, allocation, limits={"flops": 1000}, **named)
    return Trial(candidate, outcome, costs, 2.0, "inline", 50_000)


def write_run(
    folder: Path,
    outcomes: Sequence[Outcome] = OUTCOMES,
    ended: bool = True,
    test: bool = True,
    identity: dict[str, str] = IDENTITY,
    started: dict[str, Any] | None = None,
    recipe: Recipe | None = None,
    limits: Mapping[str, int] = LIMITS,
    **settings: Any,
) -> Path:
    """The folder of a run with these outcomes, its best one trial 3.

    Args:
        started: further fields of the first record.
        settings: sections that differ.
    """
    folder.mkdir(parents=True)
    described = {
        "settings": {**SETTINGS, **settings},
        "params": {"searcher": "auto", "pruner": "l1_filter", "costs": "actual", "trials": 5},
        "groups": WIDTHS,
        "metrics": infos_to_json([ACCURACY]),
        "objective": asdict(LOSS),
        "command": ["autoprune", "search", "--budget", "flops=0.5"],
        "environment": {"python": "3.11", "torch": "2.13"},
    }
    with Ledger(folder / "ledger.jsonl") as ledger:
        ledger.write("started", version=1, identity=identity, scoring={"pruner": "l1_filter"}, limits=dict(limits),
                     **(described if started is None else started))  # fmt: skip
        ledger.write("dense", score=scored(0.1, 0.95, 100).to_json(), costs=DENSE_COSTS)
        ledger.write("level", group="", width=0, score=scored(0.1, 0.95, 100).to_json(), work=100_000)
        for group, width in (("a", 4), ("b", 2)):
            ledger.write("level", group=group, width=width, score=scored(0.2, 0.9, 100).to_json(), work=50_000)
        for number, outcome in enumerate(outcomes):
            told = trial(number, outcome, **({"recipe": recipe} if recipe else {}))
            ledger.asked(told.candidate)
            ledger.told(told)
        if ended:
            for result in results(test):
                ledger.write("result", **result.to_json())
            ledger.write("finished", best=3)
    return folder


def results(test: bool) -> list[Result]:
    best = trial(3, OUTCOMES[3])
    held = scored(0.35, 0.88, 50) if test else None
    return [
        Result("dense", None, {}, scored(0.1, 0.95, 100), scored(0.12, 0.94, 50) if test else None, DENSE_COSTS, 1.5),
        Result("uniform", 0, {"a": 8, "b": 2}, scored(0.5, 0.8, 100), held, trial(0, OUTCOMES[0]).costs, 1.0),
        Result("best", 3, best.candidate.allocation.to_json(), scored(0.31, 0.89, 200), held, best.costs, 0.9),
    ]


TRAINED = Recipe(finetune=Finetune(steps=10))
