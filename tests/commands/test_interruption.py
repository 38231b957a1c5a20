"""Ctrl-C once ends a run in order, twice at once; either way the user hears how to go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from autoprune.running.search import session
from tests.journeys import OWN, has_ended, history_of, search_in_child

RUN = (*OWN, "--task", "tests.user_tasks:task", "--searcher", "random", "--trials", "100", "--output", "run")
WAITS = Path("the tracker waits")


@contextmanager
def slowly_mirrored(*_: object) -> Iterator[None]:
    """Waits for the mirror of an interrupted run, which another interrupt does not end."""
    try:
        yield
    finally:
        WAITS.touch()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with suppress(KeyboardInterrupt):
                time.sleep(1)


def stubborn() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    session.mirroring = slowly_mirrored  # type: ignore[assignment]


def until(child: int, condition: Callable[[], object]) -> None:
    while not condition():
        assert not has_ended(child)
        time.sleep(0.01)


def told() -> bool:
    return b'"told"' in Path("run/ledger.jsonl").read_bytes() if Path("run/ledger.jsonl").exists() else False


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_waits_for_nothing(
    workdir: Path, capfd: pytest.CaptureFixture[str], stop: signal.Signals
) -> None:
    seconds = []

    def interrupt_twice(child: int) -> None:
        until(child, told)
        os.kill(child, stop)
        until(child, WAITS.exists)
        os.kill(child, stop)
        start = time.monotonic()
        while not has_ended(child):
            time.sleep(0.01)
        seconds.append(time.monotonic() - start)

    assert search_in_child(*RUN, before=stubborn, meanwhile=interrupt_twice) == 1
    assert seconds[0] < 10
    said = capfd.readouterr().err
    assert "autoprune: interrupted; continue with: autoprune search --resume run" in said
    assert "Traceback" not in said
    assert history_of(Path("run")).trials()


def test_an_interrupt_that_is_ignored_stays_so(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As `nohup` and a shell's background jobs have it."""

    def ignoring() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def interrupt(child: int) -> None:
        until(child, told)
        os.kill(child, signal.SIGINT)

    assert search_in_child(*RUN, "--trials", "8", before=ignoring, meanwhile=interrupt) == 0
    assert history_of(Path("run")).last("finished")


def test_an_interrupt_before_anything_was_written_says_so(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupting() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        session.start_session = lambda *_: os.kill(os.getpid(), signal.SIGINT)  # type: ignore[assignment]

    assert search_in_child(*RUN, before=interrupting) == 1
    assert "autoprune: interrupted before anything was written" in capfd.readouterr().err
    assert not Path("run").exists()
