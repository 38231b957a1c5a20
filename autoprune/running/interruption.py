"""Runs that stop early in somebody else's process, a notebook's say, end with a message that says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from autoprune.core.ledger import read_records
from autoprune.errors import AutopruneError, callers_traceback, ended_by_user_code
from autoprune.files import is_full
from autoprune.running.run_folder import RunFolder


@contextmanager
def interruptible(folder: RunFolder, resume: str) -> Iterator[None]:
    """Gives an interrupt or a full disk a message that says how to go on; the process lives on, after any interrupt.

    Signals keep the handlers that they have there.

    Args:
        folder: the run's.
        resume: the call that goes on.

    Raises:
        KeyboardInterrupt: an interrupt from the keyboard, whatever code that it met has made of it; the message says
            what was done and how to go on.
        AutopruneError: the disk is full, or code of the user's raises what is no `Exception`.
    """
    with _noted(signal.SIGINT) as interrupted:
        try:
            yield
            return
        except Exception as fault:
            if isinstance(fault, OSError) and is_full(fault):
                raise AutopruneError(f"the disk is full ({fault}); make room, then continue with {resume}") from fault
            if not interrupted():  # raised inside an import, say, it may have been made into an error of another kind
                raise
        except KeyboardInterrupt:
            pass
        except BaseException as fault:
            raise AutopruneError(ended_by_user_code(fault)) from fault
    stopped = KeyboardInterrupt(_done(folder, resume))
    stopped._render_traceback_ = lambda: callers_traceback(stopped)  # type: ignore[attr-defined]  # as errors have it
    raise stopped from None


def _done(folder: RunFolder, resume: str) -> str:
    if not folder.experiment.exists():
        return "interrupted before anything was written"
    told = sum(record["event"] == "told" for record in read_records(folder.ledger))
    trials = "1 trial, which is" if told == 1 else f"{told} trials, which are"
    return f"interrupted after {trials} kept; continue with {resume}"


@contextmanager
def _noted(number: signal.Signals) -> Iterator[Callable[[], bool]]:
    """Gives a function that returns whether a signal has come; its handler is called all the same."""
    came = threading.Event()
    before = signal.getsignal(number)

    def note(*arguments: Any) -> None:
        came.set()
        before(*arguments)  # type: ignore[operator,misc]  # it is callable

    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    signal.signal(number, note)
    try:
        yield came.is_set
    finally:
        signal.signal(number, before)
