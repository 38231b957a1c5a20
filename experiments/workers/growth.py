"""How what a trial costs the driver grows with the number of trials before it, evaluations left out.

    python -m experiments.workers.growth [SEARCHER…] [--trials N] [--output FILE]

Each searcher drives one run on the 60 groups of `tasks.many_groups`. Evaluations are made up, from widths alone, and
end at rungs as real ones do; what lies between two of them (telling, ranking, records, asking) is the driver's, and
measured in CPU time of its thread. Printed, and written as JSON, are milliseconds a trial in each tenth of the run,
the last over the first, and the seconds that resuming the finished run takes.

Beside other work CPU time is worth less, so each trial's is compared with that of a fixed piece of work done just
before it: milliseconds are those of a machine on which that takes as long as it took here at its median.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.cli import main as autoprune
from autoprune.core.trial import Candidate, Score, Stopped, Trial
from autoprune.evaluation.evaluator import Evaluator
from autoprune.files import write_whole

SEARCHERS = ("random", "evolution", "annealing", "tpe", "auto")
OPTIONS = (
    "--set",
    "sensitivity.levels=1",
    "--task",
    "experiments.workers.tasks:many_groups",
    "--budget",
    "flops=0.5",
    "--set",
    "track.enabled=false",
)
SAMPLES = 1000


class Stopwatch:
    """Stands in for `Evaluator.evaluate`, and takes the time between two calls.

    Attributes:
        seconds: CPU time of the driver before each evaluation but the first.
        yardstick: CPU time of the fixed piece of work before each of these times.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.yardstick: list[float] = []
        self._since: float | None = None

    def evaluate(self, evaluator: Evaluator, candidate: Candidate, keep: bool = True) -> Trial:
        now = time.thread_time()
        if self._since is not None:
            self.seconds.append(now - self._since)
        outcome = _made_up(candidate, evaluator.prunable.costs.widths)
        trial = Trial(candidate, outcome, evaluator.prunable.costs.costs(candidate.allocation), work=1)
        begun = time.thread_time()
        _work()
        self._since = time.thread_time()
        self.yardstick.append(self._since - begun)
        return trial


def _work() -> None:
    """Takes a millisecond or so, half of it in Python's own arithmetic and half in numpy's."""
    widths = {str(number): number for number in range(2000)}
    sorted(widths.items(), key=lambda item: -item[1])
    matrix = np.arange(3600.0).reshape(60, 60)
    for _ in range(10):
        matrix = matrix @ matrix.T
        matrix /= np.abs(matrix).max()


def _made_up(candidate: Candidate, dense: Any) -> Score | Stopped:
    """Returns a score that rises as groups lose structures, with noise at two rungs, or where its rungs end it."""
    rng = np.random.default_rng(zlib.crc32(repr(sorted(candidate.allocation.items())).encode()))
    kept = enumerate(candidate.allocation.items())
    lost = [(1 + at % 7) * (dense[name] / max(width, 0.5)) ** 1.5 for at, (name, width) in kept]
    loss = float(np.mean(lost)) / 10
    rungs: list[Score] = []
    for share, noise in ((0.1, 0.05), (0.3, 0.02), (1.0, 0.0)):
        value = loss * float(1 + noise * rng.normal())
        score = Score(value, {"accuracy": 1 / (1 + value)}, int(share * SAMPLES), rungs=tuple(rungs))
        at = candidate.stop_thresholds[len(rungs)] if len(rungs) < len(candidate.stop_thresholds) else None
        if share < 1.0 and at is not None and value > at:
            return Stopped(score)
        rungs.append(score)
    return score


def measure(searcher: str, trials: int, folder: Path) -> dict[str, Any]:
    """Returns milliseconds a trial by tenth, and seconds of resuming the finished run."""
    watch, evaluate = Stopwatch(), Evaluator.evaluate
    Evaluator.evaluate = lambda *args, **options: watch.evaluate(*args, **options)  # type: ignore[method-assign]
    try:
        _do("search", *OPTIONS, "--searcher", searcher, "--trials", trials, "--output", folder / searcher)
        begun = time.perf_counter()
        _do("search", "--resume", folder / searcher)
        resumed = time.perf_counter() - begun
    finally:
        Evaluator.evaluate = evaluate  # type: ignore[method-assign]
    usual = float(np.median(watch.yardstick))
    tenths = [
        1000 * usual * float(np.sum(part) / np.sum(beside))
        for part, beside in zip(
            np.array_split(watch.seconds[: trials - 1], 10),
            np.array_split(watch.yardstick[: trials - 1], 10),
            strict=True,
        )
    ]
    return {
        "trials": trials,
        "milliseconds": [round(each, 2) for each in tenths],
        "last_over_first": round(tenths[-1] / tenths[0], 2),
        "resume_seconds": round(resumed, 2),
    }


def _do(*arguments: object) -> None:
    code = autoprune([str(argument) for argument in arguments])
    if code:
        raise SystemExit(code)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("searchers", nargs="*", default=SEARCHERS)
    parser.add_argument("--trials", type=int, default=1500)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    for searcher in chosen.searchers:
        with tempfile.TemporaryDirectory() as folder:
            found[searcher] = measure(searcher, chosen.trials, Path(folder))
        print(searcher, json.dumps(found[searcher]), flush=True)
        if chosen.output is not None:
            write_whole(chosen.output, (json.dumps(found, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
