"""Interrupts of a run in somebody else's process."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.errors import AutopruneError
from autoprune.running.interruption import interruptible
from autoprune.running.run_folder import RunFolder


@pytest.fixture
def _interrupts_come() -> Iterator[None]:
    """A test that is run in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts_come")
def test_an_interrupt_stays_one_whatever_code_it_meets_makes_of_it(tmp_path: Path) -> None:
    def import_half() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("half imported") from None

    expected = pytest.raises(KeyboardInterrupt, match="interrupted before anything was written")
    with expected, interruptible(RunFolder(tmp_path), ""):
        import_half()


def test_other_errors_stay_what_they_are_and_a_full_disk_is_named(tmp_path: Path) -> None:
    for fault in (ImportError("x"), OSError(errno.EACCES, "not allowed")):
        with pytest.raises(type(fault)) as raised, interruptible(RunFolder(tmp_path), ""):
            raise fault
        assert raised.value is fault
    expected = pytest.raises(AutopruneError, match=r"the disk is full .*; make room, then continue with this")
    with expected, interruptible(RunFolder(tmp_path), "this"):
        raise OSError(errno.ENOSPC, "no space left")


def test_a_search_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    said: list[BaseException] = []

    def work() -> None:
        try:
            with interruptible(RunFolder(tmp_path), ""):
                raise ImportError("x")
        except ImportError as fault:
            said.append(fault)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(said) == 1
