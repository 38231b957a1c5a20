"""SIGKILL again and again, in every phase of a run: whatever is resumed ends as if nothing had been.

    python -m tests.running.killing [--kills 100] [--seed 0] [--inline]

Each run of a small search that sweeps, fine-tunes, tracks and has finalists is killed three times, resumed each time
and then left to its end; searchers take turns, and every third run has two workers. Ten to twenty minutes on an idle
machine; Ctrl-C stops it. What is checked is in `check`.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from autoprune.cli import main as autoprune
from autoprune.core.ledger import History
from autoprune.reporting.record import is_being_written
from autoprune.running.search import results as conclusion
from tests.journeys import has_ended, history_of, in_child, left_behind
from tests.running.test_killed import check_end, often_saving

SEARCHERS = ("random", "evolution", "annealing", "tpe", "auto", "nsga2", "netadapt", "autocompress")
PHASES = ("start", "database", "sweep", "search", "training", "finalists", "table", "end")
OPTIONS = ("search", "--task", "tests.accidents:steady", "--budget", "flops=0.6", "--trials", "6", "--output", "run")
OPTIONS = (*OPTIONS, "--set", "sensitivity.levels=2", "--set", "run.threads=1", "--set", "track.model=false")
OPTIONS = (*OPTIONS, "--set", "evaluation.samples=48", "--set", "evaluation.recalibrate.samples=32")
TRAINED = ("--set", "evaluation.finetune={steps: 2, batch_size: 32}")
ROUNDS = ("--set", "search.rounds={count: 2, probes: 2, finetune: {steps: 2, batch_size: 32}}")
ROUNDS = (*ROUNDS, "--set", "search.rounds.admm={steps: 2, batch_size: 32}")
FINALISTS = ("--set", "search.rerank={top: 2, steps: 4, batch_size: 32}")
WORKERS = ("--workers", "2")
KILLS_PER_RUN = 3


def options(searcher: str) -> tuple[str, ...]:
    trained = ROUNDS if searcher in ("netadapt", "autocompress") else TRAINED
    return (*OPTIONS, "--searcher", searcher, *trained, *FINALISTS)


def command(home: Path, *arguments: str) -> Callable[[], int]:
    """A command typed in a folder, beside which temporary files lie; what it says goes to a file there."""

    def action() -> int:
        os.setsid()  # as a shell does it: what is left of a killed driver's Ray ends its whole process group
        scratch = temporary(home)
        scratch.mkdir(exist_ok=True)
        said = os.open(f"{home}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ["TMPDIR"], tempfile.tempdir = str(scratch), None
        os.chdir(home)
        often_saving()
        # Measuring takes a second, and never comes to the same.
        conclusion.measure_latency = lambda networks, _: [1.0] * len(networks)  # type: ignore[assignment]
        return autoprune(list(arguments))

    return action


def temporary(home: Path) -> Path:
    return home.with_name(f"{home.name}.tmp")


@dataclass(frozen=True)
class Unbroken:
    """A run that nobody killed.

    Attributes:
        begun: when its process was started, in seconds since 1970.
        stored: when MLflow's database was there.
        ended: when its process had ended.
    """

    home: Path
    begun: float
    stored: float
    ended: float

    @cached_property
    def history(self) -> History:
        return history_of(self.home / "run")

    def moments(self) -> Iterator[Moment]:
        """The time between any two records, and before the first and after the last."""
        records, seen = self.history.records, Counter[str]()
        yield Moment("start", "", 0, records[0]["time"] - self.begun)
        for record, after in zip(records, [*(r["time"] for r in records[1:]), self.ended], strict=True):
            event = record["event"]
            seen[event] += 1
            gap = max(after, self.stored) - record["time"] if event == "started" else after - record["time"]
            yield Moment(_phase(record, self.history), event, seen[event], gap)


def _phase(record: dict[str, Any], history: History) -> str:
    """The phase that begins with a record."""
    event = record["event"]
    if event == "told" and record["number"] == history.trials()[-1].number:
        return "table"
    if event == "asked" and record["role"] == "finalist":
        return "finalists"
    if event == "asked" and (record["recipe"].get("finetune") or record["recipe"].get("admm")):
        return "training"
    named = {"started": "database", "dense": "sweep", "level": "sweep", "result": "table", "finished": "end"}
    return named.get(event, "search")


@dataclass(frozen=True)
class Moment:
    """A time in a run: at most so many seconds after its ledger has an event for the count-th time."""

    phase: str
    event: str
    count: int
    gap: float

    def wait(self, ledger: Path, child: int, share: float) -> None:
        """Waits until a share of the gap is over, or for the end of the process."""
        mark = f'{{"event": "{self.event}"'.encode()
        while not has_ended(child) and self.event and _count(ledger, mark) < self.count:
            time.sleep(0.001)
        end = time.monotonic() + share * self.gap
        while not has_ended(child) and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))


def _count(ledger: Path, mark: bytes) -> int:
    return ledger.read_bytes().count(mark) if ledger.exists() else 0


def run_unbroken(home: Path, *arguments: str) -> Unbroken:
    home.mkdir()
    begun, stored = time.time(), [0.0]

    def watch(child: int) -> None:
        while not has_ended(child):
            if not stored[0] and (home / "mlflow.db").exists():
                stored[0] = time.time()
            time.sleep(0.002)

    assert in_child(command(home, *arguments), limit=900, meanwhile=watch) == 0, Path(f"{home}.log").read_text()
    return Unbroken(home, begun, stored[0], time.time())


class Campaign:
    """Kills of one seed, in a folder of their own.

    Attributes:
        kills: how many there were, by phase.
        late: how many came after the end of the process they were meant for.
    """

    def __init__(self, folder: Path, seed: int, inline: bool = False, say: Callable[[str], None] = print) -> None:
        self._folder, self._rng, self._inline, self._say = folder, random.Random(seed), inline, say
        self._unbroken: dict[str, Unbroken] = {}
        self._runs = self.late = 0
        self.kills = Counter[str]()

    def run(self, kills: int) -> None:
        """Kills, until there were so many.

        Raises:
            AssertionError: a run did not end as it should; its note says which, and when it was killed.
        """
        while self.kills.total() < kills:
            searcher = SEARCHERS[self._runs % len(SEARCHERS)]
            workers = not self._inline and self._runs % 3 == 2
            first = KILLS_PER_RUN * self._runs
            phases = sorted({(first + each) % len(PHASES) for each in range(min(KILLS_PER_RUN, kills))})
            self._kill_and_check(searcher, workers, [PHASES[each] for each in phases])
            self._runs += 1

    def _whole(self, searcher: str) -> Unbroken:
        if searcher not in self._unbroken:
            self._unbroken[searcher] = run_unbroken(self._folder / f"{searcher}-unbroken", *options(searcher))
        return self._unbroken[searcher]

    def _kill_and_check(self, searcher: str, workers: bool, phases: Sequence[str]) -> None:
        whole, home = self._whole(searcher), self._folder / f"{self._runs}-{searcher}"
        home.mkdir()
        notes = [f"{searcher}, {'two workers' if workers else 'inline'}"]
        try:
            for phase in phases:
                notes.append(self._kill(home, searcher, workers, whole, phase))
            before = _whole_lines(home)
            assert self._start_or_resume(home, searcher, workers) == 0, Path(f"{home}.log").read_text()[-3000:]
            check(home, whole, before, searcher, workers)
        except BaseException as failure:
            failure.add_note("; ".join(notes))
            raise
        self._say(f"{self.kills.total()}: {'; '.join(notes)}")

    def _kill(self, home: Path, searcher: str, workers: bool, whole: Unbroken, phase: str) -> str:
        moments = [moment for moment in whole.moments() if moment.phase == phase]
        if not moments:  # searchers without a sweep
            return f"no {phase}"
        moment, share, before = self._rng.choice(moments), self._rng.random(), _whole_lines(home)

        def kill(child: int) -> None:
            moment.wait(home / "run" / "ledger.jsonl", child, share)
            os.kill(child, signal.SIGKILL)

        code = self._start_or_resume(home, searcher, workers, kill)
        assert code in (0, -signal.SIGKILL), Path(f"{home}.log").read_text()[-3000:]
        assert _whole_lines(home).startswith(before), "records were changed or lost"
        if code == 0:
            self.late += 1
            return f"{phase} (had ended)"
        self.kills[phase] += 1
        return f"{phase} {share * moment.gap:.3f} s after {moment.event or 'the start'} {moment.count or ''}".rstrip()

    def _start_or_resume(
        self, home: Path, searcher: str, workers: bool, meanwhile: Callable[[int], None] = lambda _: None
    ) -> int:
        begun = (home / "run" / "experiment.yaml").exists()
        arguments = ("search", "--resume", "run") if begun else (*options(searcher), *(WORKERS if workers else ()))
        return in_child(command(home, *arguments), limit=900, meanwhile=meanwhile)


def _whole_lines(home: Path) -> bytes:
    ledger = home / "run" / "ledger.jsonl"
    content = ledger.read_bytes() if ledger.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def check(home: Path, whole: Unbroken, before: bytes, searcher: str, workers: bool) -> None:
    """Checks what a run has come to that was killed and resumed.

    - Its records are those that it had, each trial, level and whole table once, and those of the unbroken run; with
      workers, on whose order the proposals of most searchers depend, those that both have agree.
    - In its folder, beside it and in the folder of temporary files lies what an unbroken run leaves.
    - MLflow has every trial once, all of them closed.
    """
    run, records = home / "run", history_of(home / "run")
    assert _whole_lines(home).startswith(before)
    assert not is_being_written(run)
    for event in ("told", "reevaluated"):
        found = [record["number"] for record in records.of(event)]
        assert len(set(found)) == len(found), (event, found)
    # Latencies are measured side by side, so a table that was broken off is measured anew, the whole of it.
    rows, table = ([record["name"] for record in each.of("result")] for each in (records, whole.history))
    assert rows[-len(table) :] == table, rows
    assert rows.count(table[-1]) == 1, rows
    levels = [(record["group"], record["width"]) for record in records.of("level")]
    assert len(set(levels)) == len(levels), levels
    told = {record["number"] for record in records.of("told")}
    assert told == set(range(len(told))) == {record["number"] for record in records.of("asked")}
    if not workers:
        check_end(run, whole.home / "run")
    else:
        scores = {trial.candidate.key: trial.outcome for trial in whole.history.trials() if trial.score}
        known = [trial for trial in records.trials() if trial.candidate.key in scores and trial.score]
        assert all(trial.outcome == scores[trial.candidate.key] for trial in known)
        if searcher == "random":
            # Its proposals do not depend on results; which of them are dropped early does, on those told before.
            drawn, wanted = (
                {t.number: t.candidate.allocation for t in each.trials() if t.candidate.role != "finalist"}
                for each in (records, whole.history)
            )
            assert drawn == wanted
        assert left_behind(run) == left_behind(whole.home / "run")
        assert {int(path.stem) for path in (run / "weights").glob("*.pt")} <= told
        assert all(path.suffix == ".pt" for path in (run / "weights").iterdir())
    assert left_behind(home) == left_behind(whole.home)
    scratch = {*left_behind(temporary(whole.home)), *(["ray"] if workers else [])}  # torch has a cache there
    assert scratch.issuperset(left_behind(temporary(home))), left_behind(temporary(home))
    with sqlite3.connect(home / "mlflow.db") as store:
        states = [status for (status,) in store.execute("select status from runs where lifecycle_stage = 'active'")]
    assert Counter(states) == {"FINISHED": len(told) + 1}, (states, [trial.outcome for trial in records.trials()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inline", action="store_true", help="no run has workers")
    chosen = parser.parse_args()
    begun = time.monotonic()
    # Short, as the paths of Ray's sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="kill") as folder:
        campaign = Campaign(Path(folder), chosen.seed, chosen.inline, lambda text: print(text, flush=True))
        try:
            campaign.run(chosen.kills)
        except KeyboardInterrupt:
            sys.exit(f"stopped after {campaign.kills.total()} kills, all runs until then as they should be")
    kills = ", ".join(f"{phase} {campaign.kills[phase]}" for phase in PHASES)
    print(
        f"{campaign.kills.total()} kills ({kills}) in {time.monotonic() - begun:.0f} s; {campaign.late} came too late"
    )


if __name__ == "__main__":
    main()
