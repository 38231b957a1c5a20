"""The mirror beside a run: in order, with patience, and without the run ever waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from autoprune.core.trial import Score, Trial
from autoprune.reporting.record import read_record
from autoprune.running.tracking import background
from autoprune.running.tracking.background import BackgroundTracker
from autoprune.running.tracking.tracker import RunDescription, RunOutcome, describe
from tests.reporting.ledgers import OUTCOMES, trial, write_run

TRIALS = [trial(number, outcome) for number, outcome in enumerate(OUTCOMES)]


class Recording:
    """A mirror that remembers, and fails or waits where it is told to."""

    def __init__(self, down: int = 0, known: Collection[int] = (), wait: threading.Event | None = None) -> None:
        self.down, self.known, self.wait = down, set(known), wait
        self.told_: list[tuple[int, int, int | None]] = []
        self.finished: list[int] = []
        self.interrupted = False
        self.opened = 0

    def open(self, run: RunDescription) -> Collection[int]:
        self.opened += 1
        return set(self.known)

    def told(self, trial: Trial, when: float, step: int, best: Trial | None) -> None:
        if self.wait is not None:
            self.wait.wait(30)
        if self.down > 0 and len(self.told_) >= 2:
            self.down -= 1
            raise ConnectionError("the server is down")
        self.known.add(trial.number)
        self.told_.append((trial.number, step, best.number if best else None))

    def finish(self, outcome: RunOutcome) -> None:
        self.finished.append(outcome.best)

    def interrupt(self) -> None:
        self.interrupted = True


@pytest.fixture
def description(tmp_path: Path) -> RunDescription:
    return describe(read_record(write_run(tmp_path / "run", ())))


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the tracker says to the user."""
    said: list[str] = []
    monkeypatch.setattr(background.log, "warning", lambda text, *parts: said.append(text % parts))
    return said


def follow(mirror: Recording, description: RunDescription, patience: float = 10, pause: float = 0.01) -> float:
    """Mirrors five trials and their outcome; the seconds that the end took."""
    tracker = BackgroundTracker(mirror, patience, pause)
    tracker.start(description)
    for each in TRIALS:
        tracker.told(each)
    start = time.monotonic()
    tracker.finish(RunOutcome(3, {}, []))
    return time.monotonic() - start


def test_trials_are_mirrored_in_order_with_the_best_so_far(description: RunDescription) -> None:
    mirror = Recording()
    follow(mirror, description)
    assert mirror.told_ == [(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 3), (4, 5, 3)]
    assert mirror.finished == [3]


def test_what_the_mirror_holds_is_not_told_again(description: RunDescription) -> None:
    mirror = Recording(known=(0, 1, 3))
    follow(mirror, description)
    assert mirror.told_ == [(2, 3, 0), (4, 5, 3)]


def test_a_mirror_that_was_down_for_a_while_ends_complete(description: RunDescription, warnings: list[str]) -> None:
    mirror = Recording(down=1)
    follow(mirror, description)
    assert [number for number, _, _ in mirror.told_] == [0, 1, 2, 3, 4]
    assert (mirror.opened, mirror.finished) == (2, [3])
    assert "".join(warnings).count("MLflow cannot be written") == 1
    assert len(warnings) == 1


def test_a_mirror_that_stays_down_is_left_with_the_command_that_completes_it(
    description: RunDescription, warnings: list[str]
) -> None:
    mirror = Recording(down=1000)
    assert follow(mirror, description) < 5
    assert mirror.finished == []
    assert "".join(warnings).count("MLflow cannot be written") == 1
    assert f"autoprune track {description.folder}" in warnings[-1]


def test_a_slow_mirror_delays_no_trial_and_the_end_only_for_its_patience(description: RunDescription) -> None:
    never = threading.Event()
    mirror = Recording(wait=never)
    tracker = BackgroundTracker(mirror, patience=0.2)
    start = time.monotonic()
    tracker.start(description)
    for each in TRIALS:
        tracker.told(each)
    assert time.monotonic() - start < 0.2
    tracker.finish(RunOutcome(3, {}, []))
    assert time.monotonic() - start < 5
    never.set()
    time.sleep(0.1)
    assert len(mirror.told_) <= 1  # nobody waits for it any more, so it stops


def test_the_end_waits_as_long_as_the_mirror_advances(description: RunDescription) -> None:
    class Slow(Recording):
        def told(self, trial: Trial, when: float, step: int, best: Trial | None) -> None:
            time.sleep(0.15)
            super().told(trial, when, step, best)

    mirror = Slow()
    follow(mirror, description, patience=0.6)
    assert len(mirror.told_) == 5
    assert mirror.finished == [3]


def test_an_interrupt_is_noted_and_a_tracker_that_never_started_ignores_it(description: RunDescription) -> None:
    mirror = Recording()
    BackgroundTracker(mirror).interrupt()
    assert not mirror.interrupted
    tracker = BackgroundTracker(mirror)
    tracker.start(description)
    tracker.told(TRIALS[0])
    tracker.interrupt()
    assert mirror.interrupted
    assert mirror.told_ == [(0, 1, 0)]


def test_a_trial_is_mirrored_with_the_time_that_the_ledger_says(tmp_path: Path) -> None:
    times: list[float] = []

    class Timed(Recording):
        def told(self, trial: Trial, when: float, step: int, best: Trial | None) -> None:
            times.append(when)

    run = describe(read_record(write_run(tmp_path / "run", [Score(0.5, 0.8, 100)])))
    tracker = BackgroundTracker(Timed())
    tracker.start(run)
    tracker.told(TRIALS[0])
    tracker.finish(RunOutcome(0, {}, []))
    assert times == [run.told_at[0]]
