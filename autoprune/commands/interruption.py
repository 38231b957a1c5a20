"""Runs that stop early end with a message that says how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autoprune.errors import AutopruneError, Interrupted
from autoprune.files import is_full


@contextmanager
def interruptible(experiment: Path, resume: str) -> Iterator[None]:
    """Turns an interrupt or a full disk into a message that says how to go on; a second interrupt ends the process.

    Args:
        experiment: the file of the run's settings; without it there is nothing to go on with.
        resume: the command that goes on.

    Raises:
        Interrupted: an interrupt from the keyboard, or SIGTERM.
        AutopruneError: the disk is full.
    """

    def message() -> str:
        if experiment.exists():
            return f"interrupted; continue with: {resume}"
        return "interrupted before anything was written"

    try:
        with interrupts(message):
            yield
    except KeyboardInterrupt:
        raise Interrupted(message()) from None
    except OSError as fault:
        if is_full(fault) and experiment.exists():
            raise AutopruneError(f"the disk is full ({fault}); make room, then continue with: {resume}") from fault
        raise


@contextmanager
def interrupts(message: Callable[[], str]) -> Iterator[None]:
    """Makes a first interrupt raise `KeyboardInterrupt`, and a second one end the process at once.

    What is written is complete at any time, so there is nothing to lose. Signals that are ignored stay so.

    Args:
        message: what is said at the second interrupt.

    Raises:
        KeyboardInterrupt: there was a first one, whatever code that it met has made of it.
    """
    interrupted = False

    def handle(*_: object) -> None:
        nonlocal interrupted
        if interrupted:
            print(f"autoprune: {message()}", file=sys.stderr, flush=True)
            os._exit(1)
        interrupted = True
        raise KeyboardInterrupt

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    for each, kept in before.items():
        if kept not in (signal.SIG_IGN, None):  # None: not ours to change
            signal.signal(each, handle)
    try:
        yield
    except Exception:
        if interrupted:  # raised inside an import, say, it may have been made into an error of another kind
            raise KeyboardInterrupt from None
        raise
    finally:
        if not interrupted:  # else the end of the process may take its time too
            for each, kept in before.items():
                if kept is not None:
                    signal.signal(each, kept)


def typed(*parts: str) -> str:
    """Returns a command of autoprune as it is typed."""
    return shlex.join(["autoprune", *parts])
