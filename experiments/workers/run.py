"""What workers gain, and what a trial costs beside its evaluation.

    python -m experiments.workers.run [--only speed|overhead|busy|tune] [--trials N] [--searchers NAME…]

- speed: ResNet-20 on CIFAR-10, a sweep and 40 random candidates, one worker and two, one thread each;
- overhead: a network of 60 groups whose trials take next to nothing, 500 of them searched inline by each searcher, and
  what resuming after them takes;
- busy: eight workers that share the CPUs, trials of five seconds of sleep;
- tune: as overhead, with one worker: what Ray Tune takes for a trial.

Run it in the repository's root; for speed and busy nothing else should run on the machine. Results are kept in
results.json beside this file, each part as soon as it is measured; tables of all that is there go to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.core.ledger import read_history

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
EXPERIMENT = HERE.parent / "searchers.yaml"
SEARCHERS = ("random", "annealing", "evolution", "tpe", "cmaes", "gp", "nsga2", "auto", "netadapt")
TRIALS = {"speed": 40, "overhead": 500, "busy": 96, "tune": 100}
SLEEPERS = 8
LENGTHS = (1, 5, 30, 120, 600)
"""Seconds of a trial, in the table of how many workers one driver feeds."""


def main() -> None:
    arguments = _arguments()
    for part in [arguments.only] if arguments.only else TRIALS:
        trials = arguments.trials or TRIALS[part]
        for name in arguments.searchers if part == "overhead" else [None]:
            found = _MEASURES[part](trials, name)
            results = _results()
            results[part] = {**results.get(part, {}), name: found} if name else found
            RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
            print(part, name or "", json.dumps(found), file=sys.stderr, flush=True)
    print("\n\n".join(_tables(_results())))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(TRIALS))
    parser.add_argument("--trials", type=int, help=f"instead of {TRIALS}")
    parser.add_argument("--searchers", nargs="+", choices=SEARCHERS, default=SEARCHERS, help="those of overhead")
    return parser.parse_args()


def _results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def speed(trials: int, _: str | None) -> dict[str, Any]:
    """By workers: seconds of the start, of a candidate and of a level of the sweep; how much faster two are."""
    common = (EXPERIMENT, "--searcher", "random", "--trials", trials, "--set", "search.evaluations=null")
    swept = (EXPERIMENT, "--searcher", "knapsack", "--set", "search.evaluations=null")
    runs = {n: {**_candidates(common, n), "level": _level(swept, n)} for n in (1, 2)}
    ratios = {f"ratio_{part}": runs[1][part] / runs[2][part] for part in ("candidate", "level")}
    return {"trials": trials, **{f"workers_{n}": run for n, run in runs.items()}, **ratios}


def _candidates(options: Sequence[Any], workers: int) -> dict[str, float]:
    """Seconds before all workers have begun, and from there to when the first has no more to do those a candidate."""
    records = _search(*options, "--workers", workers)
    spans = _spans(records)
    begin, end = _together(spans)
    done = sum(_inside(span, begin, end) / (span[1] - span[0]) for own in spans.values() for span in own)
    return {"start": begin - _of(records, "dense")[0]["time"], "candidate": (end - begin) / done}


Span = tuple[float, float]


def _spans(records: Iterable[dict[str, Any]]) -> dict[str, list[Span]]:
    """By worker: when each of its candidates began and was told."""
    spans: dict[str, list[Span]] = {}
    for record in _of(records, "told"):
        spans.setdefault(record["worker"], []).append((record["time"] - record["seconds"], record["time"]))
    return spans


def _together(spans: Mapping[str, Sequence[Span]]) -> Span:
    """From when the last worker has begun until the first is done for good."""
    return (
        max(min(start for start, _ in own) for own in spans.values()),
        min(max(stop for _, stop in own) for own in spans.values()),
    )


def _inside(span: Span, begin: float, end: float) -> float:
    """How much of a span lies within another."""
    return max(0.0, min(span[1], end) - max(span[0], begin))


def _level(options: Sequence[Any], workers: int) -> float:
    """Seconds a level of the sweep, behind the first of each worker: until then workers start."""
    levels = [record for record in _of(_search(*options, "--workers", workers), "level") if record["group"]]
    return (levels[-1]["time"] - levels[workers]["time"]) / (len(levels) - 1 - workers)


def overhead(trials: int, searcher: str | None) -> dict[str, float]:
    return _overhead(searcher, trials)


def tune(trials: int, _: str | None) -> dict[str, float]:
    return _overhead("random", trials, "--workers", 1)


def busy(trials: int, _: str | None) -> dict[str, Any]:
    """How much of their time workers evaluate while all of them have started and none is done for good."""
    records = _search(
        *("--task", "experiments.workers.tasks:sleeping", "--budget", "flops=0.6", "--searcher", "random"),
        *("--trials", trials, "--workers", SLEEPERS, "--cpus-per-trial", 0.2),
    )
    spans = _spans(records)
    begin, end = _together(spans)
    inside = sum(_inside(span, begin, end) for own in spans.values() for span in own)
    return {
        "trials": trials,
        "workers": len(spans),
        "window": end - begin,
        "start": begin - _of(records, "dense")[0]["time"],
        "busy": inside / (len(spans) * (end - begin)),
    }


_MEASURES = {"speed": speed, "overhead": overhead, "busy": busy, "tune": tune}


def _search(*options: Any) -> list[dict[str, Any]]:
    """The records of one search in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run, store = Path(folder) / "run", f"sqlite:///{Path(folder) / 'mlflow.db'}"
        _python("-m", "autoprune", "search", *options, "--output", run, "--tracking-uri", store)
        return list(read_history(run).records)


def _overhead(*arguments: Any) -> dict[str, float]:
    found: dict[str, float] = json.loads(_python(HERE / "overhead.py", *arguments).splitlines()[-1])
    return found


def _of(records: Iterable[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [record for record in records if record["event"] == event]


def _python(*arguments: Any) -> str:
    """What a Python program prints, with one thread.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [sys.executable, *map(str, arguments)]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def _tables(results: Mapping[str, Any]) -> list[str]:
    """What is there, as Markdown."""
    found = [_speed_line(results["speed"])] if "speed" in results else []
    if "busy" in results:
        one = results["busy"]
        found.append(
            f"{one['workers']} workers, trials of 5 s, {one['trials']} of them: busy for {one['busy']:.1%} of "
            f"{one['window']:.0f} s; before that {one['start']:.0f} s until the last of them had begun."
        )
    if "overhead" in results:
        found.append(_overhead_table(results["overhead"]))
    if {"overhead", "tune"} <= set(results):
        found.append(_model_table(results["overhead"], results["tune"]["tune"]))
    return found


def _speed_line(one: Mapping[str, Any]) -> str:
    first, second = one["workers_1"], one["workers_2"]
    return (
        f"Seconds with one worker and with two: a candidate {first['candidate']:.2f} and {second['candidate']:.2f}, "
        f"{one['ratio_candidate']:.2f} times as fast ({one['trials']} candidates); a level of the sweep "
        f"{first['level']:.2f} and {second['level']:.2f}, {one['ratio_level']:.2f} times; before that "
        f"{first['start']:.0f} and {second['start']:.0f} until all workers had begun."
    )


def _overhead_table(overhead: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        (name, one["trials"], one["ask"], one["tell"], one["ask"] + one["tell"], one["replay"])
        for name in SEARCHERS
        if (one := overhead.get(name))
    ]
    lines = [f"| {n} | {t} | {a:.1f} | {s:.1f} | {both:.1f} | {r:.1f} |" for n, t, a, s, both, r in rows]
    head = ["| searcher | trials | asking | telling | both | resuming |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    return "\n".join([*head, *lines])


def _model_table(overhead: Mapping[str, Mapping[str, float]], tune: float) -> str:
    """Workers that one driver feeds: seconds of a trial over those that the driver takes for it."""
    lines = ["| searcher | driver, ms a trial | " + " | ".join(f"{s} s" for s in LENGTHS) + " |"]
    lines.append("| --- |" + " ---: |" * (1 + len(LENGTHS)))
    for name in SEARCHERS:
        if name in overhead:
            driver = overhead[name]["ask"] + overhead[name]["tell"] + tune
            fed = " | ".join(f"{1000 * seconds / driver:,.0f}" for seconds in LENGTHS)
            lines.append(f"| {name} | {driver:.0f} | {fed} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
