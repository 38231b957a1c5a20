"""The mirror beside a run: in order, with patience, and without the run ever waiting for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoprune.core.ledger import Ledger, read_records
from autoprune.errors import UserError
from autoprune.running.tracking import tracker
from autoprune.running.tracking.sync import Sync
from autoprune.running.tracking.tracker import Tracker, mirroring
from tests.reporting.ledgers import OUTCOMES, trial, write_run

TOLD = list(range(len(OUTCOMES)))


class Shelf(Sync):
    """A store that remembers trials, and fails or waits where it is told to."""

    def __init__(self, folder: Path, down: int = 0, seconds: float = 0.0) -> None:
        self.path, self.down, self.seconds = folder / "ledger.jsonl", down, seconds
        self.numbers: list[int] = []
        self.opens, self.closed = 0, False

    def open(self) -> Sync:
        self.opens += 1
        return self

    def update(self, over: bool = False) -> Iterator[None]:
        told = [record["number"] for record in read_records(self.path) if record["event"] == "told"]
        for number in told[len(self.numbers) :]:
            time.sleep(self.seconds)
            if self.down > 0 and len(self.numbers) >= 2:
                self.down -= 1
                raise ConnectionError("the server is down")
            self.numbers.append(number)
            yield
        self.closed = over


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the tracker says to the user."""
    said: list[str] = []
    monkeypatch.setattr(tracker.log, "warning", lambda text, *parts: said.append(text % parts))
    for name, seconds in {"POLL": 0.01, "PAUSE": 0.01, "PATIENCE": 10.0}.items():
        monkeypatch.setattr(tracker, name, seconds)
    return said


def follow(folder: Path, shelf: Callable[[Path], Shelf]) -> tuple[Shelf, float, float]:
    """Tells five trials beside a tracker; the store, and the seconds that the trials and the end took."""
    write_run(folder, (), ended=False)
    store = shelf(folder)
    start = time.monotonic()
    with Tracker(folder, store.open), Ledger(folder / "ledger.jsonl") as ledger:
        for number, outcome in enumerate(OUTCOMES):
            told = trial(number, outcome)
            ledger.asked(told.candidate)
            ledger.told(told)
        end = time.monotonic()
    return store, end - start, time.monotonic() - end


def test_trials_are_mirrored_in_order_and_the_run_is_closed(tmp_path: Path, warnings: list[str]) -> None:
    store, _, _ = follow(tmp_path / "run", Shelf)
    assert store.numbers == TOLD
    assert store.closed
    assert warnings == []


def test_a_store_that_was_down_for_a_while_ends_complete(tmp_path: Path, warnings: list[str]) -> None:
    store, _, _ = follow(tmp_path / "run", lambda folder: Shelf(folder, down=1))
    assert store.numbers == TOLD
    assert (store.opens, store.closed) == (2, True)
    assert warnings == [
        "MLflow cannot be written (ConnectionError: the server is down); the run goes on, and it is tried again"
    ]


def test_a_store_that_stays_down_is_left_with_the_command_that_completes_it(
    tmp_path: Path, warnings: list[str]
) -> None:
    store, _, seconds = follow(tmp_path / "run", lambda folder: Shelf(folder, down=1000))
    assert seconds < 5
    assert not store.closed
    assert "".join(warnings).count("MLflow cannot be written") == 1
    assert f"autoprune track {tmp_path / 'run'}" in warnings[-1]


def test_a_store_that_hangs_delays_no_trial_and_the_end_only_for_its_patience(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "PATIENCE", 0.3)
    store, telling, ending = follow(tmp_path / "run", lambda folder: Shelf(folder, seconds=2))
    assert telling < 1
    assert 0.3 <= ending < 1.5
    assert "this completes it: autoprune track" in warnings[-1]
    time.sleep(2)
    assert len(store.numbers) <= 1  # nobody waits for it any more, so it stops


def test_the_end_waits_as_long_as_the_store_advances(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "_SILENCE", 0.2)
    monkeypatch.setattr(tracker, "PATIENCE", 0.9)
    store, _, ending = follow(tmp_path / "run", lambda folder: Shelf(folder, seconds=0.3))
    assert ending > 0.9
    assert (store.numbers, store.closed) == (TOLD, True)
    [said] = warnings
    assert "Ctrl-C leaves the rest to: autoprune track" in said


def test_the_end_does_not_wait_for_ever(tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "MOST_PATIENCE", 0.5)
    store, _, ending = follow(tmp_path / "run", lambda folder: Shelf(folder, seconds=0.3))
    assert ending < 1.5
    assert not store.closed


def test_an_interrupted_run_is_closed_and_its_fault_goes_on(tmp_path: Path, warnings: list[str]) -> None:
    folder = write_run(tmp_path / "run", OUTCOMES, ended=False)
    store = Shelf(folder)
    with pytest.raises(KeyboardInterrupt), Tracker(folder, store.open):
        raise KeyboardInterrupt
    assert (store.numbers, store.closed) == (TOLD, True)


def test_an_interrupt_while_the_end_waits_leaves_a_whole_run(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tracker, "_end", interrupted)
    follow(tmp_path / "run", lambda folder: Shelf(folder, seconds=1))
    assert "this completes it: autoprune track" in warnings[-1]


def test_a_user_s_fault_is_said_in_its_own_words(tmp_path: Path, warnings: list[str]) -> None:
    def refuse() -> Sync:
        raise UserError("the experiment was deleted")

    with Tracker(tmp_path, refuse):
        pass
    assert (
        warnings[0] == "MLflow cannot be written (the experiment was deleted); the run goes on, and it is tried again"
    )


def test_without_tracking_there_is_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with mirroring(tmp_path, None):
        assert threading.active_count() == before
