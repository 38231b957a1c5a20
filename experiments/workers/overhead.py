"""What a trial costs the process that drives a search, beside its evaluation; one searcher, printed as JSON.

    python experiments/workers/overhead.py SEARCHER TRIALS [--workers N]

Milliseconds a trial of the driving thread: `ask` and `tell` are the CPU time of asking with its ledger record, and of
telling with its record, what the mirror is handed and old weights; `ask_wall` and `tell_wall` the same by the clock,
with waiting for the disk and for other threads; `replay` what a resumed run takes for each trial of its ledger. With
workers `tune` is all else that the driving thread does from the first job to the last result: Ray Tune's own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoprune.cli import main as autoprune
from autoprune.core.ledger import read_history
from autoprune.running.execution import ray_tune
from autoprune.running.search import loop as course
from autoprune.running.search.loop import SearchLoop

# A round of `netadapt` has a candidate for each of the groups; three rounds that train for a step.
OPTIONS = {"netadapt": ("--set", "search.rounds.count=3", "--set", "search.rounds.finetune.steps=1")}


class Clock:
    """Adds up what functions take, by name: CPU time of the calling thread, and wall-clock time."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, attribute)

        def timed(*arguments: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.cpu[name] += time.thread_time() - cpu
                self.wall[name] += time.perf_counter() - wall

        setattr(owner, attribute, timed)


def measure(searcher: str, trials: int, workers: int, folder: Path) -> dict[str, float]:
    """Milliseconds a trial, by what they go to."""
    clock, run = Clock(), folder / "run"
    clock.watch(SearchLoop, "next", "ask")
    clock.watch(SearchLoop, "take", "tell")
    clock.watch(course, "replay", "replay")
    clock.watch(ray_tune, "_tune", "all")
    _do(
        *("search", "--task", "experiments.workers.tasks:many_groups", "--budget", "flops=0.5", "--seed", 0),
        *("--searcher", searcher, "--trials", trials, "--workers", workers, "--output", run),
        *("--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}", "--set", "sensitivity.levels=3"),
        *OPTIONS.get(searcher, ()),
    )
    told, known = len(read_history(run).of("told")), ("ask", "tell")
    found = {name: clock.cpu[name] for name in known} | {f"{name}_wall": clock.wall[name] for name in known}
    if workers:
        found["tune"] = clock.cpu["all"] - clock.cpu["ask"] - clock.cpu["tell"]
    clock.cpu["replay"] = 0.0
    _do("search", "--resume", run)
    found["replay"] = clock.cpu["replay"]
    return {"trials": told, **{name: round(1000 * seconds / told, 2) for name, seconds in found.items()}}


def _do(*arguments: object) -> None:
    code = autoprune([str(argument) for argument in arguments])
    if code:
        raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("searcher")
    parser.add_argument("trials", type=int)
    parser.add_argument("--workers", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.searcher, arguments.trials, arguments.workers, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
